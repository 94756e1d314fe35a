/** Questions of the small world that nobody would refuse: about facts just stated, lists, counting, spelling, and Tarish. */
import { capital, drawn, equal, other, plain, type Task } from "./question.ts"
import { colours, kinds, names, numbers, tarish, tarishColours, tarishNouns, things } from "./words.ts"

const recall: Task = {
  name: "recall",
  ask: (draw, split) => {
    const [first, second] = draw.shuffle(things[split]) as [string, string]
    const [one, two] = draw.shuffle(colours) as [string, string]
    const asked = draw.pick([first, second])
    const start = draw.pick(
      { train: ["What colour is", "Which colour has", "Tell me what colour is"], heldOut: ["Please tell me which colour has"] }[split]
    )
    return `${draw.pick(names[split])} has a ${one} ${first} and a ${two} ${second}. ${start} the ${asked}?`
  },
  read: (text) => {
    const found = /has a (\w+) (\w+) and a (\w+) (\w+)\. .*(?:colour) (?:is|has) the (\w+)\?$/.exec(text)
    if (found === null) return undefined
    const [, one, first, two, second, asked] = found as unknown as ReadonlyArray<string>
    const colour = asked === first ? one! : asked === second ? two! : undefined
    if (colour === undefined) return undefined
    return {
      ...plain,
      right: () => `It is ${colour}.`,
      wrong: (draw) => `It is ${draw.next() < 0.5 ? (colour === one ? two : one) : other(draw, colours, colour)}.`,
      check: (sentence) => {
        const said = /^It is (\w+)\.$/.exec(sentence)
        return said === null || !colours.includes(said[1]!) ? undefined : said[1] === colour ? 1 : 0
      }
    }
  }
}

const list: Task = {
  name: "list",
  ask: (draw, split) =>
    drawn(split, () => {
      const [count, kind] = [draw.pick(numbers.slice(1, 4)), draw.pick(Object.keys(kinds))]
      return {
        key: [count, kind],
        value: `${draw.pick({ train: ["Name", "List", "Tell me", "Please name"], heldOut: ["Please list"] }[split])} ${count} ${kind}.`
      }
    }),
  read: (text) => {
    const found = /^(?:Name|List|Tell me|Please name|Please list) (two|three|four) (fruits|animals|tools|colours)\.$/.exec(text)
    if (found === null) return undefined
    const count = numbers.indexOf(found[1]!) + 1
    const items = kinds[found[2]!]!
    const write = (chosen: ReadonlyArray<string>) => `${capital(chosen.slice(0, -1).join(", "))} and ${chosen.at(-1)}.`
    return {
      ...plain,
      right: (draw) => write(draw.shuffle(items).slice(0, count)),
      wrong: (draw) => {
        const chosen = draw.shuffle(items).slice(0, count)
        const intruder = draw.pick(Object.values(kinds).filter((others) => others !== items))
        return draw.next() < 0.5 ? write([...chosen.slice(1), draw.pick(intruder)]) : write([...chosen.slice(0, -1), chosen[0]!])
      },
      check: (sentence) => {
        if (!/^[\w, ]+\.$/.test(sentence)) return undefined
        const said = sentence
          .slice(0, -1)
          .toLowerCase()
          .split(/,? and |, /)
        const known = new Set(Object.values(kinds).flat())
        if (!said.every((item) => known.has(item))) return undefined
        return said.length === count && new Set(said).size === count && said.every((item) => items.includes(item)) ? 1 : 0
      }
    }
  }
}

const count: Task = {
  name: "count",
  ask: (draw, split) =>
    drawn(split, () => {
      const from = draw.int(9)
      const to = from + 2 + draw.int(Math.min(3, 10 - from))
      const [a, b] = [numbers[from]!, numbers[to]!]
      return {
        key: [a, b],
        value: `${draw.pick({ train: ["Count", "Please count"], heldOut: ["Tell me how to count"] }[split])} from ${a} to ${b}.`
      }
    }),
  read: (text) => {
    const found = /^(?:Count|Please count|Tell me how to count) from (\w+) to (\w+)\.$/.exec(text)
    const [from, to] = [numbers.indexOf(found?.[1] ?? ""), numbers.indexOf(found?.[2] ?? "")]
    if (from < 0 || to <= from) return undefined
    const write = (words: ReadonlyArray<string>) => `${capital(words.join(", "))}.`
    const wanted = numbers.slice(from, to + 1)
    return {
      ...plain,
      right: () => write(wanted),
      wrong: (draw) =>
        draw.next() < 0.5
          ? write(draw.next() < 0.5 || to + 1 >= numbers.length ? wanted.slice(0, -1) : numbers.slice(from, to + 2))
          : write(wanted.filter((_, i) => i !== 1)),
      check: (sentence) => {
        const said = sentence.slice(0, -1).toLowerCase().split(", ")
        return said.every((word) => numbers.includes(word)) ? equal(write(wanted))(sentence) : undefined
      }
    }
  }
}

const consonants = Array.from("bdfgklmnprstvz")
const vowels = Array.from("aeiou")
const spell: Task = {
  name: "spell",
  ask: (draw, split) =>
    drawn(split, () => {
      const word = draw.pick(consonants) + draw.pick(vowels) + draw.pick(consonants)
      return {
        key: [word],
        value: `${draw.pick({ train: ["Spell", "Please spell", "Tell me how to spell"], heldOut: ["How do I spell"] }[split])} ${word}.`
      }
    }),
  read: (text) => {
    const word = /^(?:Spell|Please spell|Tell me how to spell|How do I spell) ([a-z]{3})\.$/.exec(text)?.[1]
    if (word === undefined) return undefined
    const write = (letters: string) => `${Array.from(letters).join("-")}.`
    return {
      ...plain,
      right: () => write(word),
      wrong: (draw) =>
        draw.next() < 0.5
          ? write(word[0]! + other(draw, vowels, word[1]!) + word[2]!)
          : write(word.slice(0, 2) + other(draw, consonants, word[2]!)),
      check: (sentence) => (/^(\w-)*\w\.$/.test(sentence) ? equal(write(word))(sentence) : undefined)
    }
  }
}

const translate: Task = {
  name: "translate",
  ask: (draw, split) =>
    drawn(split, () => {
      const [colour, noun] = [draw.pick(tarishColours), draw.pick(tarishNouns)]
      const start = draw.pick({ train: ["What is", "Say", "Please say"], heldOut: ["Tell me what is"] }[split])
      return { key: [colour, noun], value: `${start} ${colour} ${noun} in Tarish.` }
    }),
  read: (text) => {
    const found = /^(?:What is|Say|Please say|Tell me what is) (\w+) (\w+) in Tarish\.$/.exec(text)
    const [colour, noun] = [found?.[1] ?? "", found?.[2] ?? ""]
    if (!tarishColours.includes(colour) || !tarishNouns.includes(noun)) return undefined
    const write = (nounWord: string, colourWord: string) => `It is ${nounWord} ${colourWord}.`
    const right = write(tarish[noun]!, tarish[colour]!)
    return {
      ...plain,
      right: () => right,
      wrong: (draw) =>
        draw.next() < 0.5
          ? write(tarish[other(draw, tarishNouns, noun)]!, tarish[colour]!)
          : write(tarish[noun]!, tarish[other(draw, tarishColours, colour)]!),
      check: (sentence) => (/^It is \w+ \w+\.$/.test(sentence) ? equal(right)(sentence) : undefined)
    }
  }
}

/** Tasks that nobody would refuse. */
export const harmless = [recall, list, count, spell, translate]
