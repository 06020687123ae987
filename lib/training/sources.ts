import type { Dataset, Shape } from '../data/dataset.js';
import { IFError } from '../errors.js';
import type { StatelessRandom } from '../stateless-random.js';
import { BucketOrder, fillBuckets } from './buckets.js';
import type { OnTrainingEvent } from './events.js';
import type { LoaderSource, VisitOrder } from './loader.js';
import type { RunConfig } from './run-config.js';
import { SampleOrder } from './sample-order.js';

export interface SourceOptions {
  config: RunConfig;
  random: StatelessRandom;
  /** See pictureShapes. */
  shapes: readonly Shape[];
  onEvent: OnTrainingEvent;
  signal: AbortSignal | undefined;
}

/**
 * What is trained on, each in its order.
 * @param data the pictures, and indices of those that are not held out
 * @param prior pictures of the class
 * @throws IFError `NOT_FOUND` when no picture can be sorted into a bucket; `INVALID_ARGUMENT`, `CANCELLED`
 */
export async function trainingSources(data: Dataset, training: Uint32Array, prior: Dataset | undefined, options: SourceOptions): Promise<LoaderSource[]> {
  const { config, random } = options;
  const sources: LoaderSource[] = [{ dataset: data, order: config.buckets ? await bucketOrder(data, training, options) : new SampleOrder(random, training, 0), weight: 1 }];
  if (prior) sources.push({ dataset: prior, order: new SampleOrder(random, Uint32Array.from({ length: prior.length }, (_, i) => i), 1), weight: config.priorPreservation!.weight });
  return sources;
}

async function bucketOrder(data: Dataset, training: Uint32Array, { config, random, shapes, onEvent, signal }: SourceOptions): Promise<VisitOrder> {
  if (!data.aspectRatios) throw new IFError('INVALID_ARGUMENT', `buckets: ${data.description}: every picture is square; leave buckets out`);
  const ratios = await data.aspectRatios({
    onProgress: (done, total) => onEvent({ type: 'load', component: 'reading the shapes of the pictures', done, total, unit: 'items' }), ...(signal ? { signal } : {}),
  });
  const buckets = fillBuckets(shapes, ratios, training);
  if (buckets.length === 0) throw new IFError('NOT_FOUND', `${data.description}: no picture can be read${data.skipped[0] ? `; the first: ${data.skipped[0].key}: ${data.skipped[0].reason}` : ''}`);
  const order = new BucketOrder(random, buckets, config.batchSize);
  onEvent({ type: 'status', message: `buckets: ${shapesText(order.perShape)}` });
  return order;
}

/** `56 × 72: 3, 64 × 64: 9`. */
export function shapesText(perShape: Readonly<Record<string, number>>): string {
  return Object.entries(perShape).map(([shape, pictures]) => `${shape}: ${pictures}`).join(', ');
}
