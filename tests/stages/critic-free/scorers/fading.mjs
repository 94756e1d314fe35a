let count = 0
/** The same for the first three answers and from the seventh on. */
export default () => (++count > 3 && count <= 6 ? count : 1)
