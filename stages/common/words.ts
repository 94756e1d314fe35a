/** Words in lower case, runs of digits, and every other character that is no space by itself. */
export const words = (text: string): ReadonlyArray<string> => text.toLowerCase().match(/\p{L}[\p{L}\p{M}]*|\p{N}+|[^\s\p{L}\p{N}]/gu) ?? []
