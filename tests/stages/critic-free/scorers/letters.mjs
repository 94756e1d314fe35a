export default (_prompt, answer) => answer.split("a").length - 1
