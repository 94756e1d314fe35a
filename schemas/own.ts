/** The value of an own property by an untrusted name; never an inherited one ("constructor", "toString", "__proto__"). */
export const own = <A>(record: Readonly<Record<string, A>>, name: string): A | undefined =>
  Object.hasOwn(record, name) ? record[name] : undefined
