import type { ValidationResult } from './validation.js';

/** What a run tells while it works. */
export type TrainingEvent =
  /** Something that the user should know of, e.g. a picture that cannot be read. */
  | { type: 'warning'; message: string }
  /** Where the run stands, in a few words. */
  | { type: 'status'; message: string }
  /** What will be resident. */
  | { type: 'plan'; component: string; weightBytes: number; activationBytes: number }
  /** Weights are read (bytes), or data is made ready (items). */
  | { type: 'load'; component: string; done: number; total: number; unit: 'bytes' | 'items' }
  /** The steps begin: the model is in memory. */
  | { type: 'begin'; parameters: number; pictures: number; batchSize: number; steps: number }
  /** An optimizer step is done. */
  | {
      type: 'step';
      step: number;
      steps: number;
      epoch: number;
      loss: number;
      /** Before clipping. */
      gradientNorm: number;
      lr: number;
      picturesPerSecond: number;
      /** Resident bytes of the process. */
      memory: number;
      /** Until the last step. */
      secondsLeft: number;
    }
  | { type: 'validation'; step: number; last: ValidationResult; ema: ValidationResult | undefined }
  | { type: 'preview'; step: number; file: string }
  | { type: 'checkpoint'; step: number; dir: string }
  /** The pipeline folder is written. */
  | { type: 'done'; step: number; dir: string };

export type OnTrainingEvent = (event: TrainingEvent) => void;
