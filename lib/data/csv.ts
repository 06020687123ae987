import { IFError } from '../errors.js';

/**
 * The records of comma-separated values (RFC 4180): quoted fields may hold commas, line breaks and doubled quotes.
 * Empty lines are left out.
 * @param file for messages
 * @returns the fields, with the number of the line where each record begins, from 1
 * @throws IFError `FILE_FORMAT` for quotes that do not close, or stand inside a field
 */
export function parseCsv(text: string, file: string): { line: number; fields: string[] }[] {
  const records: { line: number; fields: string[] }[] = [];
  let line = 1;
  let at = 0;
  while (at < text.length) {
    const record = { line, fields: [] as string[] };
    for (;;) {
      let field: string;
      if (text[at] === '"') {
        const end = closingQuote(text, at + 1);
        if (end < 0) throw new IFError('FILE_FORMAT', `${file}, line ${line}: a quote is opened and never closed`);
        field = text.slice(at + 1, end).replaceAll('""', '"');
        for (const c of field) if (c === '\n') line++;
        at = end + 1;
        if (at < text.length && !',\r\n'.includes(text[at]!)) throw new IFError('FILE_FORMAT', `${file}, line ${line}: expected a comma or the end of the line behind a closing quote`);
      } else {
        let end = at;
        while (end < text.length && text[end] !== ',' && text[end] !== '\n' && text[end] !== '\r') end++;
        field = text.slice(at, end);
        if (field.includes('"')) throw new IFError('FILE_FORMAT', `${file}, line ${line}: a quote inside a field; put the whole field in quotes and double those inside`);
        at = end;
      }
      record.fields.push(field);
      if (text[at] !== ',') break;
      at++;
    }
    if (text[at] === '\r') at++;
    if (text[at] === '\n') at++;
    line++;
    if (record.fields.length > 1 || record.fields[0] !== '') records.push(record);
  }
  return records;
}

/** Position of the quote that ends a field, doubled ones passed over; -1 when there is none. */
function closingQuote(text: string, from: number): number {
  for (let at = text.indexOf('"', from); at >= 0; at = text.indexOf('"', at + 2)) {
    if (text[at + 1] !== '"') return at;
  }
  return -1;
}
