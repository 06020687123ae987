// Writes tar archives, wrong ones included.

export interface TarEntry {
  name: string;
  content?: string | Uint8Array;
  /** Default '0', a plain file. */
  type?: string;
  /** Instead of the content's: what the header claims; a number, or the field's 12 bytes. */
  claims?: number | Buffer;
  prefix?: string;
  /** Added to the header's sum. */
  wrongSum?: number;
  magic?: string;
}

/** One member: header, content, padding. */
export function tarMember({ name, content = '', type = '0', claims, prefix = '', wrongSum = 0, magic = 'ustar\x0000' }: TarEntry): Buffer {
  const data = Buffer.from(content as string);
  const header = Buffer.alloc(512);
  header.write(name, 0, 100, 'utf8');
  header.write('0000644\0', 100, 'latin1');
  if (Buffer.isBuffer(claims)) claims.copy(header, 124);
  else header.write(`${(claims ?? data.length).toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  header.write(type, 156, 'latin1');
  header.write(magic, 257, 'latin1');
  header.write(prefix, 345, 'utf8');
  header.fill(0x20, 148, 156);
  const sum = header.reduce((a, b) => a + b, 0) + wrongSum;
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return Buffer.concat([header, data, Buffer.alloc((512 - data.length % 512) % 512)]);
}

/** An archive with the two empty blocks at its end. */
export function tar(...entries: TarEntry[]): Buffer {
  return Buffer.concat([...entries.map(tarMember), Buffer.alloc(1024)]);
}

/** A record of a pax header: its length counts itself. */
export function paxRecord(key: string, value: string): string {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest + 1;
  while (length !== rest + String(length).length) length = rest + String(length).length;
  return `${length} ${key}=${value}\n`;
}
