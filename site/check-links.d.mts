export const deadLinks: (folder: string, base?: string) => ReadonlyArray<string>
