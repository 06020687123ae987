/** What a data source needs besides its own options. */
export interface DataContext {
  /** Folder of the configuration: relative paths begin there, packages are looked for from there. */
  base: string;
  /** Folder for what is computed once (lib/text/prompt-embeddings.ts defaultCacheDir); null: nothing is kept. */
  cacheDir: string | null;
  onWarning?: (message: string) => void;
  /** Of what is done once, e.g. drawing emojis. */
  onProgress?: (task: string, done: number, total: number) => void;
}
