import type { Images } from '../tensor.js';

/** What `generate` tells while it works. */
export type ProgressEvent =
  /** Weights are read. `component`: text_encoder, stage1, stage2, stage3. done and total in bytes. */
  | { type: 'load'; component: string; done: number; total: number }
  /** The plan of a component, before it is loaded. */
  | { type: 'plan'; component: string; weightBytes: number; activationBytes: number }
  /** One sampler step is done. */
  | {
      type: 'step';
      stage: number;
      /** Steps done, 1 … steps. */
      step: number;
      steps: number;
      timestep: number;
      seconds: number;
      /** 2 × multiply-adds of the step. */
      flops: number;
      /** The picture that the network predicts now, in [-1, 1]. Valid until the next event. */
      preview: () => Promise<Images>;
    }
  /** Something was lost or changed that the user should know of, e.g. a truncated prompt. */
  | { type: 'warning'; message: string };

export type OnProgress = (event: ProgressEvent) => void;
