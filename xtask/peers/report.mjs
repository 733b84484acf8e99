// report.mjs CHROMIUM PAGE FOLDER: opens the report at two widths and in two colour schemes; fails on overflow, errors or requests.
import { chromium } from "playwright-core";
import { pathToFileURL } from "node:url";

const [executablePath, page, folder] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args });
let seen = 0;
for (const [name, width, height] of [["phone", 390, 844], ["desktop", 1280, 900]]) {
  for (const colorScheme of ["light", "dark"]) {
    const tab = await browser.newPage({ viewport: { width, height }, colorScheme });
    const problems = [];
    tab.on("console", (m) => m.type() === "error" && problems.push(m.text()));
    tab.on("pageerror", (e) => problems.push(String(e)));
    tab.on("request", (r) => r.url().startsWith("file:") || r.url().startsWith("data:") || problems.push(`fetches ${r.url()}`));
    await tab.goto(pathToFileURL(page).href);
    const scroll = await tab.evaluate(() => document.documentElement.scrollWidth);
    if (scroll > width) problems.push(`${scroll} pixels wide on a screen of ${width}`);
    const variants = await tab.evaluate(() => document.querySelectorAll("table tbody tr").length);
    if (variants < 5) problems.push(`${variants} table rows`);
    const plots = await tab.evaluate(() => document.querySelectorAll("svg").length);
    if (plots < 1) problems.push("no plot");
    await tab.screenshot({ path: `${folder}/${name}-${colorScheme}.png`, fullPage: true });
    if (problems.length) throw new Error(`${name}, ${colorScheme}: ${problems.join("; ")}`);
    seen += 1;
    await tab.close();
  }
}
await browser.close();
console.log(`${seen} views without overflow, error or request`);
