/** Text to train and try a tokenizer on: invented words of several scripts with a natural distribution, numbers, code, emoji, odd spaces. Always the same. */
import type { ModelFile } from "../../../models/tokenizer/model-file.ts"


/** Numbers in [0, 1), the same for the same seed (mulberry32). */
const uniform = (seed: number): (() => number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}

const english =
  "the a of to and in it is that was on for are with as they at be this from have or one had by word but not what all were we when your can said there use an each which she do how their if will up other about out many then them these so some her would make like him into time has look two more write go see number no way could people my than first water been call who oil its now find long down day did get come made may part ship garden river mountain window letter music winter summer teacher kitchen bread lantern harbour village orchard painter compass feather whistle blanket journey"
const german = "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat daß sie nach wird bei einer um am sind noch wie einem über Straße Größe schön Bäume Flüsse"
const french = "le la les de des et à un une il elle que qui dans pour pas sur avec être avoir été où déjà forêt garçon naïve cœur élève français l’été aujourd’hui"
const russian = "и в не на я быть он с что а по это она этот к но они мы весь который из у то за свой весна река дорога книга письмо музыка"
const greek = "και το να η ο τα για με σε που από δεν θάλασσα ουρανός δρόμος βιβλίο"
const chinese = "的 一 是 不 了 人 我 在 有 他 这 中 大 来 上 国 春天 河流 学生 图书馆 音乐"
const japanese = "これ は 本 です カタカナ ひらがな 東京 ラーメン 音楽 ありがとう"
const korean = "그리고 나는 학교 사람 음악 바다 하늘 오늘 내일"
const arabic = "في من على إلى أن هذا كان مع كتاب مدرسة بحر موسيقى"
const hindi = "और का है में की यह नदी किताब संगीत नमस्ते"
const thai = "และ ที่ ใน เป็น หนังสือ ดนตรี"
const code = "for while const return (x) => x + 1; i++ if (a === b) { } [0] arr.map(f) // note !== && || foo_bar __init__ \"text\" <s> </s> <unk> #define"
const others = "www.example.org http://example.com/a/b?c=d zzz Hmmmm haaaa !!! ... ??? --- === 🦙 🎉🎉 👩‍🚀 ½ € № † ∑ Ω é ｆｕｌｌ １２ ￥ ሰላም ᠮᠣᠩ Ꮳ ⵣ"

/** `lines` lines of text; a line never holds a line feed. */
export const makeCorpus = (lines: number, seed = 1): string => {
  const next = uniform(seed)
  const pick = <T>(list: ReadonlyArray<T>): T => list[Math.floor(next() * list.length)]!
  const invented = Array.from({ length: 1200 }, () =>
    Array.from({ length: 1 + Math.floor(next() * 3) }, () => pick(["b", "br", "c", "d", "f", "g", "k", "l", "m", "n", "p", "qu", "r", "s", "st", "t", "th", "v", "w", "z", ""]) + pick(["a", "e", "i", "o", "u", "ee", "ou"]) + pick(["", "", "n", "r", "s", "t", "ng", "ck"])).join("")
  )
  const words = (text: string) => text.split(" ")
  const languages = [words(german), words(french), words(russian), words(greek), words(chinese), words(japanese), words(korean), words(arabic), words(hindi), words(thai), words(code), words(others)]
  const common = words(english)
  /** The earlier of the list the likelier, as words are. */
  const zipf = (list: ReadonlyArray<string>): string => list[Math.floor(list.length ** next()) - 1]!
  const word = (language: ReadonlyArray<string> | undefined): string => {
    const chance = next()
    if (chance < 0.04) return String(Math.floor(10 ** (next() * 6)))
    if (language !== undefined && chance < 0.85) return zipf(language)
    const plain = chance < 0.6 ? zipf(common) : zipf(invented)
    return next() < 0.1 ? plain[0]!.toUpperCase() + plain.slice(1) : plain
  }
  return Array.from({ length: lines }, () => {
    const language = next() < 0.3 ? pick(languages) : undefined
    const list = Array.from({ length: 1 + Math.floor(next() * 14) }, () => word(language) + (next() < 0.1 ? pick([",", ";", ":", "!", "?", "’s", "'s"]) : ""))
    const gap = next() < 0.04 ? pick(["  ", "   ", "\t", "        "]) : " "
    return (next() < 0.02 ? "    " : "") + list.join(gap) + pick([".", ".", ".", "!", "?", "", " "])
  })
    .map((line) => `${line}\n`)
    .join("")
}

/** A model of which every fifth joined piece is marked unused: made on the way to longer ones, never given out. */
export const withUnused = (model: ModelFile): ModelFile => ({
  ...model,
  pieces: model.pieces.map((piece, id) => (id % 5 === 0 && piece.type === "normal" && Array.from(piece.text).length > 1 ? { ...piece, type: "unused" } : piece))
})
