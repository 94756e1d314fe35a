export const scale = (x: number): number => 2 * x
