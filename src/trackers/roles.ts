/*
 * What a tag of another tool means: trainers name the same few curves differently.
 */

export type Role = 'loss' | 'learningRate' | 'gradientNorm' | 'heldOut' | 'secondsPerStep'

const names: Readonly<Record<Role, readonly RegExp[]>> = {
  heldOut: [/^(eval|val|valid|validation|test|held_?out)[/_. -]?loss$/, /^loss[/_. -](eval|val|valid|validation|test)$/],
  loss: [/^(train(ing)?[/_. -])?loss$/, /^train_loss$/, /^loss[/_. -]train$/, /^lm loss$/],
  learningRate: [/^(train[/_. -])?(lr|learning[_ -]?rate)(-\w+)?$/, /^lr[/_. -]?\w*$/],
  gradientNorm: [/^(train[/_. -])?grad(ient)?[_ -]?norm$/],
  secondsPerStep: [/^(train[/_. -])?(step[_ -]?time|seconds?[_ -]per[_ -]step|iteration[_ -]time)$/],
}

/** The role of a tag by its name; undefined where it has none of ours. */
export function roleOf(tag: string): Role | undefined {
  const name = tag.toLowerCase().replace(/[_/. -](step|epoch|avg)$/, '')
  return (Object.keys(names) as Role[]).find((role) => names[role].some((form) => form.test(name)))
}
