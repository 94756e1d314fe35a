/**
 * Writes curves as TensorBoard event files: TFRecords of the protocol buffer Event (tensorboard/compat/proto/event.proto); a scalar uses four of its
 * fields. A record is its length (8 bytes), the masked CRC-32C of the length, the bytes, and their masked CRC-32C
 * (tensorflow/core/lib/io/record_writer.cc).
 */

const polynomial = 0x82f63b78
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = (value & 1) === 1 ? (value >>> 1) ^ polynomial : value >>> 1
  return value >>> 0
})

/** CRC-32C (Castagnoli; RFC 3720, appendix B.4). Node's own is CRC-32. */
export const crc32c = (bytes: Uint8Array): number => {
  let crc = 0xffffffff
  for (const byte of bytes) crc = table[(crc ^ byte) & 0xff]! ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}
const masked = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

const record = (data: Buffer): Buffer => {
  const out = Buffer.alloc(16 + data.length)
  out.writeBigUInt64LE(BigInt(data.length), 0)
  out.writeUInt32LE(masked(out.subarray(0, 8)), 8)
  data.copy(out, 12)
  out.writeUInt32LE(masked(data), 12 + data.length)
  return out
}

const varint = (value: number): Buffer => {
  const bytes: Array<number> = []
  let rest = BigInt(value)
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80)
  return Buffer.from([...bytes, Number(rest)])
}
/** A bytes field: number, length, content. */
const bytesField = (number: number, bytes: Buffer): Buffer => Buffer.concat([Buffer.from([(number << 3) | 2]), varint(bytes.length), bytes])
const doubleField = (number: number, value: number): Buffer => {
  const out = Buffer.alloc(9)
  out[0] = (number << 3) | 1
  out.writeDoubleLE(value, 1)
  return out
}
const floatField = (number: number, value: number): Buffer => {
  const out = Buffer.alloc(5)
  out[0] = (number << 3) | 5
  out.writeFloatLE(value, 1)
  return out
}

/** The first event of a file: Event.wall_time (1), Event.file_version (3). */
export const fileVersion = (seconds: number): Buffer =>
  record(Buffer.concat([doubleField(1, seconds), bytesField(3, Buffer.from("brain.Event:2"))]))

/** Event.wall_time (1, seconds since 1970), Event.step (2), Event.summary (5) of one Value (1): tag (1), simple_value (2, float32; NaN and infinities too). */
export const scalar = (seconds: number, step: number, tag: string, value: number): Buffer =>
  record(
    Buffer.concat([
      doubleField(1, seconds),
      Buffer.from([2 << 3]),
      varint(Math.max(0, Math.trunc(step))),
      bytesField(5, bytesField(1, Buffer.concat([bytesField(1, Buffer.from(tag)), floatField(2, value)])))
    ])
  )
