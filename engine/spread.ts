/**
 * Shards a model's training over a group of ranks, each of which computes on its own rows (ZeRO, Rajbhandari et al. 2020). The weights of a block are contiguous in one
 * buffer; each rank owns 1 / n of it:
 *
 *     sharding     a rank keeps                           each micro-batch                                each step
 *     none         weights, gradients, moments                                                            gradients summed over the ranks
 *     optimizer    weights; 1/n of gradients, moments     gradients summed and scattered                  weights gathered
 *     weights      1/n of all                             the same; weights gathered block by block       -
 *
 * The next block's weights are gathered while a block is computed, and a block's gradients are sent while the next block's are computed. Gradients are summed in float32 (float64
 * if they are float64). With `weights`, a rank's part of 16-bit weights is float32, which the optimiser updates; it is rounded when it is gathered.
 */
import { gradientsOf, type Parameters } from "./gradients.ts"
import {
  allGather,
  allReduce_,
  rank,
  ranks,
  reduceScatter,
  resizeStorage_,
  setGradient,
  type Sharding,
  sharding,
  type Wait
} from "./ranks.ts"
import type { SpreadWeights } from "./segments.ts"
import { atenVoid, clearGradients, type DType, elementSize, empty, keep, noGrad, scoped, type Tensor } from "./tensor.ts"

/** Some complete tensors of a checkpoint, to be filled; `take` copies this rank's part of them and frees them. */
export interface Piece {
  readonly tensors: Parameters
  readonly take: () => void
}

export interface Spread extends SpreadWeights {
  /** The tensors that this rank's optimiser updates: its parts (E,) of the buffers, by buffer name, or the weights themselves. */
  readonly parameters: Parameters
  /** Whether `parameters` are parts of the buffers, so that a norm over them covers only this rank's share. */
  readonly isPart: boolean
  /**
   * The `parameters` that are float32 although the weights have 16 bits, named as an optimiser of those weights names its float32 masters ("master." and the buffer's name). Save them
   * together with the optimiser's state.
   */
  readonly masters: Parameters
  /** Call after the parameters have changed. */
  updated(): void
  /** Gathers all weights, for reading outside of a training step; `release` frees them again. */
  gather(): void
  release(): void
  /** Copies the complete weights into this rank's part. Call it after writing to them. */
  adopt(): void
  /** Ends sharding: the weights are complete, ordinary tensors from now on. */
  finish(): void
  /**
   * Converts tensors like `parameters` (the optimiser's state, prefixed "first." etc.) into the tensors of a single process, by the weights' names: on
   * the CPU of rank 0; empty on the other ranks. All ranks must call it. If `copies` is true, the caller must free the tensors.
   */
  whole(parts: Parameters): { readonly tensors: Parameters; readonly copies: boolean }
  /** The inverse of `whole`: tensors by the weights' names, to be read a few at a time. */
  pieces(parts: Parameters): Iterable<Piece>
}

/** Shards the training of these weights over the group as its setting says; without a group they are unchanged. */
export const spreadOver = (weights: Parameters, how: Sharding = sharding()): Spread =>
  ranks() === 1 ? new Whole(weights) : how === "none" ? new Replicated(weights) : new Sharded(weights, how)

/** No sharding, and only one rank. */
class Whole implements Spread {
  readonly parameters: Parameters
  readonly isPart: boolean = false
  readonly masters: Parameters = {}
  constructor(weights: Parameters) {
    this.parameters = weights
  }
  begin(): void {}
  forward(): void {}
  forwarded(): void {}
  backward(): void {}
  backwarded(): void {}
  end(): void {}
  accumulated(): void {}
  updated(): void {}
  gather(): void {}
  release(): void {}
  adopt(): void {}
  finish(): void {}
  whole(parts: Parameters) {
    return { tensors: parts, copies: false }
  }
  *pieces(parts: Parameters): Iterable<Piece> {
    yield { tensors: parts, take: () => {} }
  }
}

/** Number of the block that a weight belongs to; -1 if none. */
const blockOf = (name: string): number => Number(/\blayers\.(\d+)\./.exec(name)?.[1] ?? -1)

/** Weights by block, in order; weights outside the blocks come last. */
const byBlock = (weights: Parameters): ReadonlyArray<readonly [block: number, weights: Parameters]> => {
  const blocks = new Map<number, Record<string, Tensor>>()
  for (const [name, weight] of Object.entries(weights)) {
    const block = blockOf(name)
    if (!blocks.has(block)) blocks.set(block, {})
    blocks.get(block)![name] = weight
  }
  return [...blocks].sort(([a], [b]) => (a === -1 ? 1 : b === -1 ? -1 : a - b))
}

/** The dtype in which gradients are summed, and of the parts of 16-bit weights. */
const wide = (dtype: DType): DType => (dtype === "float64" ? "float64" : "float32")

/** Offsets of tensors packed in a buffer. */
class Layout {
  readonly #entries: ReadonlyArray<{
    readonly name: string
    readonly shape: ReadonlyArray<number>
    readonly from: number
    readonly to: number
  }>
  /** Numbers of elements: used, of the buffer, and of a rank's part. All are multiples of eight, so that kernels that read several numbers at a time are aligned. */
  readonly used: number
  readonly total: number
  readonly part: number
  constructor(tensors: Parameters) {
    let at = 0
    this.#entries = Object.entries(tensors).map(([name, { elements, shape }]) => ({ name, shape, from: at, to: (at += elements) }))
    this.used = at
    this.part = Math.ceil(at / ranks() / 8) * 8
    this.total = this.part * ranks()
  }
  /** The tensors as views of a buffer (total,), by name. */
  views(buffer: Tensor, prefix = ""): Parameters {
    return Object.fromEntries(this.#entries.map(({ from, name, shape, to }) => [prefix + name, buffer.slice(0, from, to).view(...shape)]))
  }
  /** This rank's part of a buffer, a view. */
  mine(buffer: Tensor): Tensor {
    return buffer.slice(0, rank() * this.part, (rank() + 1) * this.part)
  }
  /** A buffer filled with tensors in this order and padded with zeros. */
  filled(tensors: ReadonlyArray<Tensor>, dtype: DType): Tensor {
    const buffer = empty([this.total], { dtype, device: tensors[0]!.device })
    this.#entries.forEach(({ from, to }, i) => buffer.slice(0, from, to).copy_(tensors[i]!.reshape(-1)))
    buffer.slice(0, this.used, this.total).fill_(0)
    return buffer
  }
}

/** Everything on every rank; gradients are summed once per step. */
class Replicated extends Whole {
  override accumulated(): void {
    for (const [block, weights] of byBlock(this.parameters))
      scoped(() =>
        noGrad(() => {
          const gradients = gradientsOf(weights)
          const layout = new Layout(weights)
          const sum = layout.filled(gradients, wide(gradients[0]!.dtype))
          allReduce_(sum, `adding up the gradients of ${nameOf(block)}`)
          const views = Object.values(layout.views(sum))
          gradients.forEach((gradient, i) => atenVoid("set_data", gradient, views[i]))
        })
      )
  }
}

const nameOf = (block: number): string => (block === -1 ? "the rest" : `block ${block}`)

/** The weights of a block in one buffer, of which this rank owns a part. */
class Unit {
  readonly name: string
  readonly weights: Parameters
  readonly layout: Layout
  /** This rank's part (E,), which the optimiser updates: in the weights' dtype, or in float32 if that has 16 bits and the rank keeps only its part. */
  readonly part: Tensor
  /** (n E,); the weights are views of it. Its memory is released while they are not needed. */
  readonly #buffer: Tensor
  readonly #dtype: DType
  readonly #keepsWhole: boolean
  #state: "parts" | "coming" | "whole" = "whole"
  #wait: Wait = () => {}

  constructor(block: number, weights: Parameters, keepsWhole: boolean) {
    this.name = nameOf(block)
    this.weights = weights
    this.#keepsWhole = keepsWhole
    this.layout = new Layout(weights)
    const tensors = Object.values(weights)
    this.#dtype = tensors[0]!.dtype
    if (tensors.some(({ dtype }) => dtype !== this.#dtype))
      throw new Error(`The weights of ${this.name} have several dtypes and can't share one buffer: use one dtype.`)
    const made = scoped(() =>
      noGrad(() => {
        const buffer = this.layout.filled(tensors, this.#dtype)
        const views = Object.values(this.layout.views(buffer))
        tensors.forEach((tensor, i) => atenVoid("set_data", tensor, views[i]))
        const part = this.layout.mine(buffer)
        return { buffer: keep(buffer), part: keep(keepsWhole ? part : part.clone().to({ dtype: wide(this.#dtype) })) }
      })
    )
    this.#buffer = made.buffer
    this.part = made.part
    this.letGo()
  }

  /** Starts gathering the weights, unless they are complete or already being gathered. */
  start(): void {
    if (this.#state !== "parts") return
    if (!this.#keepsWhole) resizeStorage_(this.#buffer, this.layout.total * elementSize[this.#dtype])
    const gather = () => allGather(this.#buffer, this.part.to({ dtype: this.#dtype }), `gathering the weights of ${this.name}`)
    this.#wait = scoped(() => noGrad(gather))
    this.#state = "coming"
  }
  /** Waits until the weights are complete. */
  need(): void {
    this.start()
    if (this.#state === "coming") this.#wait()
    this.#state = "whole"
  }
  /** Releases the weights' memory until they are needed again. */
  letGo(): void {
    if (this.#keepsWhole || this.#state === "parts") return
    this.need()
    resizeStorage_(this.#buffer, 0)
    this.#state = "parts"
  }
  /** The optimiser has changed the parts, so a complete buffer is out of date. */
  updated(): void {
    if (this.#keepsWhole) this.#state = "parts"
  }
  adopt(): void {
    if (!this.#keepsWhole) scoped(() => noGrad(() => this.part.copy_(this.layout.mine(this.#buffer))))
  }
  /** Whether the part is float32 and the weights are not. */
  get isMaster(): boolean {
    return this.part.dtype !== this.#dtype
  }
  finish(): void {
    this.need()
    this.part.free()
    this.#buffer.free()
  }
}

/** A pending reduce-scatter of a unit's gradients. */
interface Scattering {
  readonly unit: Unit
  readonly all: Tensor
  readonly part: Tensor
  readonly wait: Wait
}

class Sharded implements Spread {
  readonly isPart = true
  readonly parameters: Parameters
  readonly masters: Parameters
  readonly #units: ReadonlyArray<Unit>
  /** Units by block number. */
  readonly #blocks: ReadonlyMap<number, Unit>
  readonly #last: number
  /** The weights outside the blocks: complete throughout a micro-batch. */
  readonly #rest: Unit | undefined
  #scattering: Scattering | undefined

  constructor(weights: Parameters, how: "optimizer" | "weights") {
    const units = byBlock(weights).map(([block, some]) => [block, new Unit(block, some, how === "optimizer")] as const)
    this.#units = units.map(([, unit]) => unit)
    this.#blocks = new Map(units)
    this.#rest = this.#blocks.get(-1)
    this.#last = Math.max(...this.#blocks.keys())
    this.parameters = Object.fromEntries(this.#units.map(({ name, part }) => [name, part]))
    this.masters = Object.fromEntries(this.#units.filter(({ isMaster }) => isMaster).map(({ name, part }) => [`master.${name}`, part]))
  }

  begin(): void {
    this.#rest?.start()
    this.#blocks.get(0)?.start()
    this.#rest?.need()
  }
  forward(block: number): void {
    this.#blocks.get(block)?.need()
    this.#blocks.get(block + 1)?.start()
  }
  forwarded(block: number): void {
    // The backward pass begins with the last block.
    if (block !== this.#last) this.#blocks.get(block)?.letGo()
  }
  backward(block: number): void {
    this.#blocks.get(block)?.need()
    if (block > 0) this.#blocks.get(block - 1)?.start()
  }
  backwarded(block: number): void {
    const unit = this.#blocks.get(block)
    if (unit === undefined) return
    this.#scatter(unit)
    unit.letGo()
  }
  end(): void {
    if (this.#rest !== undefined) {
      this.#scatter(this.#rest)
      this.#rest.letGo()
    }
    this.#settle()
  }
  accumulated(): void {}

  /** Starts the reduce-scatter of a unit's gradients: each rank gets the sum over all ranks for its part. */
  #scatter(unit: Unit): void {
    const { layout, name, weights } = unit
    this.#settle()
    scoped(() =>
      noGrad(() => {
        const gradients = gradientsOf(weights)
        const dtype = wide(gradients[0]!.dtype)
        const all = keep(layout.filled(gradients, dtype))
        const part = keep(empty([layout.part], { dtype, device: all.device }))
        clearGradients(Object.values(weights))
        this.#scattering = { unit, all, part, wait: reduceScatter(part, all, `adding up the gradients of ${name}`) }
      })
    )
  }
  /** Waits for the pending reduce-scatter and adds its result to the gradient of the unit's part. */
  #settle(): void {
    if (this.#scattering === undefined) return
    const { all, part, unit, wait } = this.#scattering
    this.#scattering = undefined
    scoped(() =>
      noGrad(() => {
        wait()
        const before = unit.part.grad()
        if (before === undefined) setGradient(unit.part, part)
        else before.add_(part)
      })
    )
    all.free()
    part.free()
  }

  updated(): void {
    for (const unit of this.#units) unit.updated()
  }
  gather(): void {
    this.#units.forEach((unit, i) => {
      // One ahead: a pending gather holds the rounded part.
      this.#units[i + 1]?.start()
      unit.need()
    })
  }
  release(): void {
    for (const unit of this.#units) unit.letGo()
  }
  adopt(): void {
    for (const unit of this.#units) unit.adopt()
  }
  finish(): void {
    for (const unit of this.#units) unit.finish()
  }

  whole(parts: Parameters) {
    const tensors: Record<string, Tensor> = {}
    for (const { layout, part, prefix, unit } of this.#named(parts))
      scoped(() =>
        noGrad(() => {
          const all = empty([layout.total], { dtype: part.dtype, device: part.device })
          allGather(all, part, `gathering the saved state of ${unit.name}`)()
          if (rank() > 0) return
          for (const [name, view] of Object.entries(layout.views(all.to({ device: "cpu" }), prefix))) tensors[name] = keep(view)
        })
      )
    return { tensors, copies: true }
  }
  *pieces(parts: Parameters): Iterable<Piece> {
    for (const { layout, part, prefix } of this.#named(parts)) {
      const { all, tensors } = noGrad(() => {
        const all = keep(empty([layout.total], { dtype: part.dtype, device: part.device }).fill_(0))
        const tensors = layout.views(all, prefix)
        for (const tensor of Object.values(tensors)) keep(tensor)
        return { all, tensors }
      })
      const take = () => {
        scoped(() => noGrad(() => part.copy_(layout.mine(all))))
        for (const tensor of [all, ...Object.values(tensors)]) tensor.free()
      }
      yield { tensors, take }
    }
  }
  /** Tensors like `parameters`, each with its unit and the prefix of its name. */
  *#named(parts: Parameters) {
    for (const [key, part] of Object.entries(parts)) {
      const unit = this.#units.find(({ name }) => key === name || key.endsWith(`.${name}`))
      if (unit === undefined) throw new Error(`There are no weights named ${key}.`)
      yield { unit, layout: unit.layout, part, prefix: key.slice(0, key.length - unit.name.length) }
    }
  }
}
