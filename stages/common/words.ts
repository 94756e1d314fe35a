/** Splits a text into lower-case words, runs of digits, and all other characters except white space, one by one. */
export const words = (text: string): ReadonlyArray<string> => text.toLowerCase().match(/\p{L}[\p{L}\p{M}]*|\p{N}+|[^\s\p{L}\p{N}]/gu) ?? []
