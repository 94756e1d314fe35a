export interface Section {
  readonly text: string
  readonly pages: ReadonlyArray<string>
  readonly folders: ReadonlyArray<{ readonly text: string; readonly pages: ReadonlyArray<string> }>
}
export const root: string
export const navigation: () => ReadonlyArray<Section>
export const pages: () => ReadonlyArray<string>
export const placeOf: (page: string) => string
export const titleOf: (page: string, folder?: string) => string
