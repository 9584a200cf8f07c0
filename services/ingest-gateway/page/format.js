// Numbers, times and sizes for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const count = (number) => whole.format(number);

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "-";
  return `${short.format(perSecond)}/s`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  if (seconds < 1) return `${whole.format(seconds * 1000)} ms`;
  if (seconds < 90) return `${short.format(seconds)} s`;
  if (seconds < 5400) return `${short.format(seconds / 60)} min`;
  if (seconds < 172800) return `${short.format(seconds / 3600)} h`;
  return `${short.format(seconds / 86400)} days`;
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "-";
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${short.format(bytes / 1e3)} KB`;
  if (bytes < 1e9) return `${short.format(bytes / 1e6)} MB`;
  return `${short.format(bytes / 1e9)} GB`;
}

export function time(text) {
  if (!text) return "-";
  const at = new Date(text);
  const day = at.toDateString() === new Date().toDateString() ? "" : `${at.toLocaleDateString()} `;
  return day + at.toLocaleTimeString();
}

export function pages(list) {
  if (!list || list.length === 0) return "";
  const [first, last] = [list[0], list[list.length - 1]];
  return first === last ? `page ${first}` : `pages ${first} to ${last}`;
}
