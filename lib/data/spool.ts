import { randomBytes } from 'node:crypto';
import { mkdir, open, rm, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { ioError } from '../files.js';

/** A file of this run only: what was expensive to unpack is written there once and read from there. */
export class Spool {
  private end = 0;
  private constructor(private readonly file: string, private readonly handle: FileHandle) {}

  /**
   * A new file in `folder`. It has no name any more where the system allows that, so that nothing stays behind a run that
   * is killed.
   * @throws IFError `IO`
   */
  static async create(folder: string): Promise<Spool> {
    const file = path.join(folder, `spool-${process.pid}-${randomBytes(6).toString('hex')}`);
    try {
      await mkdir(folder, { recursive: true });
      const handle = await open(file, 'wx+');
      await rm(file).catch(() => undefined);
      return new Spool(file, handle);
    } catch (error) {
      throw ioError('writing', file, error);
    }
  }

  /**
   * Writes bytes to the end.
   * @returns where they begin
   * @throws IFError `IO`, e.g. when the disk is full
   */
  async append(bytes: Uint8Array): Promise<number> {
    const start = this.end;
    this.end += bytes.length; // at once: another may be appended meanwhile
    try {
      for (let done = 0; done < bytes.length;) done += (await this.handle.write(bytes, done, bytes.length - done, start + done)).bytesWritten;
    } catch (error) {
      throw ioError('writing', this.file, error);
    }
    return start;
  }

  /** @throws IFError `IO` */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    try {
      await this.handle.read(bytes, 0, length, offset);
    } catch (error) {
      throw ioError('reading', this.file, error);
    }
    return bytes;
  }

  async close(): Promise<void> {
    await this.handle.close();
    await rm(this.file, { force: true });
  }
}
