// The chart of usage: tokens of each day as stacked bars, drawn anew when the width or the colours change.
const place = document.getElementById("usage-chart");
const data = place && JSON.parse(place.dataset.usage);
const DAY_S = 86_400;

const short = (value) => Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value);
const day = (at) => new Date(at * 1000).toLocaleDateString("en", { timeZone: "UTC", month: "short", day: "numeric" });
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Colours that can be told apart on light and on dark ground, also without red and green (after Okabe and Ito). */
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c7ae6", "#b3a100", "#8a8f98"];

/** The top edge of each series, stacked. */
function stacked() {
  const sums = data.times.map(() => 0);
  return data.series.map(({ values }) => values.map((value, day) => (sums[day] += value)));
}

function draw() {
  const ink = style("--pico-muted-color") || "#888";
  const lines = style("--pico-muted-border-color") || "#ccc";
  const edges = stacked();
  const bars = uPlot.paths.bars({ size: [0.7, 40] });
  // Drawn from the highest edge down, so that each bar covers the lower part of the one before.
  const order = data.series.map((_, at) => at).reverse();
  const axis = { stroke: ink, grid: { stroke: lines, width: 1 }, ticks: { stroke: lines, width: 1 } };
  const series = order.map((at) => ({
    label: data.series[at].name,
    fill: COLOURS[at % COLOURS.length],
    stroke: COLOURS[at % COLOURS.length],
    width: 0,
    paths: bars,
    points: { show: false },
    value: (_, __, ___, day) => (short(day == null ? data.series[at].values.reduce((sum, one) => sum + one, 0) : data.series[at].values[day])),
  }));
  const [first, last] = [data.times[0], data.times.at(-1)];
  place.replaceChildren();
  new uPlot(
    {
      width: place.clientWidth,
      height: 280,
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "UTC"),
      scales: {
        x: { range: () => [Math.min(first, last - 6 * DAY_S) - DAY_S / 2, last + DAY_S / 2] },
        y: { range: (_, __, most) => [0, most * 1.05 || 1] },
      },
      axes: [{ ...axis, incrs: [1, 2, 7, 14, 28].map((days) => days * DAY_S), space: 64, values: (_, days) => days.map(day) }, { ...axis, size: 60, values: (_, ticks) => ticks.map(short) }],
      series: [{ label: "Day", value: (_, at) => (at == null ? "all days" : day(at)) }, ...series],
    },
    [data.times, ...order.map((at) => edges[at])],
    place,
  );
}

if (data?.times.length) {
  draw();
  new ResizeObserver(() => requestAnimationFrame(draw)).observe(place.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
}
