// Times the views of the page in a browser. Run by `riacho-bench page`:
//
//     RIACHO_API_KEY=KEY node page.mjs PLAYWRIGHT BROWSER URL
//
// Prints a JSON object: of each view the median milliseconds from asking for it until what it is about is there.

import { createRequire } from "node:module";

const ROUNDS = 15;
const [playwright, browserPath, url] = process.argv.slice(2);
const { chromium } = createRequire(import.meta.url)(playwright);
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });

await page.goto(url);
await page.getByLabel("API key").fill(process.env.RIACHO_API_KEY);
await page.getByLabel("API key").press("Enter");
await page.getByRole("heading", { name: "Overview" }).waitFor();

/** From the change of the address until a part of the page is there, by the browser's own clock. */
async function view(hash, selector) {
  await page.evaluate(() => { location.hash = "#/search"; });
  await page.getByRole("heading", { name: "Search" }).waitFor();
  return page.evaluate(([hash, selector]) => new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`nothing like ${selector} is shown at ${hash}`)), 60e3);
    const begun = performance.now();
    const look = () => {
      if (!document.querySelector(selector)) return false;
      watcher.disconnect();
      // Until it is drawn.
      requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - begun)));
      return true;
    };
    const watcher = new MutationObserver(look);
    watcher.observe(document.body, { childList: true, subtree: true });
    location.hash = hash;
  }), [hash, selector]);
}

const views = {
  overview: ["#/", ".flow li"],
  documents: ["#/documents", "#documents tbody tr"],
  documents_of_a_state: ["#/documents?state=ready", "#documents tbody tr"],
  documents_of_a_state_that_none_is_in: ["#/documents?state=failed", "#documents .notice"],
  tenant: ["#/tenant", "main table"],
};
const medians = {};
for (const [name, [hash, selector]] of Object.entries(views)) {
  const took = [];
  for (let round = 0; round < ROUNDS; round += 1) took.push(await view(hash, selector));
  medians[name] = Math.round(took.sort((one, other) => one - other)[Math.floor(ROUNDS / 2)] * 10) / 10;
}
console.log(JSON.stringify(medians));
await browser.close();
