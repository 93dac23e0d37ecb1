// Stands in for the guide's own logger, which is not a part of it.
exports.createLogger = () => {
  const write = (level) => (message, details) => console.error(level, message, JSON.stringify(details ?? {}));
  return { info: write("info"), warn: write("warn"), error: write("error") };
};
