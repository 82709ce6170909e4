// Options of commands begin with "--", which the search would read as "without this word".
const post = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (message, ...rest) {
  if (typeof message?.data === "string") {
    const data = message.data.replace(/(^|\s)-+(?=\w)/g, "$1");
    message = { ...message, data };
  }
  return post.call(this, message, ...rest);
};
