/** The entry of an object under a name from outside; never what every object inherits ("constructor", "toString", "__proto__"). */
export const own = <A>(record: Readonly<Record<string, A>>, name: string): A | undefined =>
  Object.hasOwn(record, name) ? record[name] : undefined
