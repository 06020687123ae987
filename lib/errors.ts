/**
 * What went wrong, for programs. The message is for people: it names the operation, the parameter, what was expected,
 * what came, and what to do.
 *
 * - `INVALID_ARGUMENT`  an option or argument is outside its domain, or two contradict each other
 * - `NOT_FOUND`         a file, folder or tensor is missing
 * - `FILE_FORMAT`       a file exists but its content is not what its name promises
 * - `UNSUPPORTED`       a valid configuration that this library does not implement
 * - `WEIGHTS`           missing, unexpected or misshapen tensors (the message lists all of them), or non-finite weights
 * - `OUT_OF_MEMORY`     the plan does not fit, or an allocation failed
 * - `CANCELLED`         an AbortSignal fired
 * - `DIVERGED`          training gave values that are not finite, or exploded
 * - `IO`                reading or writing failed (the operating system's reason is in the message)
 * - `NOT_BUILT`         the backend asked for is not in this build or has no device
 * - `INTERNAL`          a bug in this library
 */
export type ErrorCode =
  | 'INVALID_ARGUMENT' | 'NOT_FOUND' | 'FILE_FORMAT' | 'UNSUPPORTED' | 'WEIGHTS'
  | 'OUT_OF_MEMORY' | 'CANCELLED' | 'DIVERGED' | 'IO' | 'NOT_BUILT' | 'INTERNAL';

/** Every error that this library throws on purpose. */
export class IFError extends Error {
  override readonly name = 'IFError';
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
