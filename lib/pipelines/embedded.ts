import { fileURLToPath } from 'node:url';

/** The name of the model that comes with the package. */
export const EMBEDDED_MODEL = 'if-emoji';

/** Its pipeline folder. lib/ and dist/ are both one level below the package root. */
export const EMBEDDED_FOLDER = fileURLToPath(new URL('../../models/if-emoji', import.meta.url));
