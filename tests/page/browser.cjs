// Opens a page in headless Chromium and prints, as JSON, what went wrong: node browser.cjs CHROMIUM PAGE
"use strict";
const { pathToFileURL } = require("url");
const { chromium } = require("playwright-core");
const axe = require("axe-core");

const [executablePath, path] = process.argv.slice(2);
const findings = [];

// Draws every chart, as scrolling past them does, and says which plots show no mark.
const drawAll = async (tab) => {
  for (const chart of await tab.locator(".chart:visible").all()) {
    await chart.evaluate((element) => element.scrollIntoView());
    await tab.waitForFunction((element) => element.dataset.drawn === "true", await chart.elementHandle(), { timeout: 60000 });
  }
  return tab.evaluate(() => [...document.querySelectorAll(".plot")]
    .filter((plot) => !plot.querySelector(".scatterlayer .trace, .barlayer .trace, .heatmaplayer image"))
    .map((plot) => plot.closest(".chart").id + " panel " + plot.dataset.panel));
};

const marks = (chart) => chart.evaluate((element) => element.querySelectorAll(".trace, .heatmaplayer image").length);

const series = async (tab) => {
  for (const chart of await tab.locator(".chart").all()) {
    const name = await chart.getAttribute("id"), before = await marks(chart);
    const button = chart.locator(".legend button").first();
    await button.focus();
    await tab.keyboard.press("Enter");
    await tab.waitForTimeout(150);
    const without = await marks(chart);
    if (!(without < before)) findings.push(`${name}: a series stays when it is switched off`);
    if ((await button.getAttribute("aria-pressed")) !== "false") findings.push(`${name}: the button does not say so`);
    for (const scale of ["log", "linear", ""]) await chart.locator("select[data-axis=y]").selectOption(scale);
    await chart.locator("[data-reset]").click();
    await tab.waitForTimeout(150);
    if ((await marks(chart)) !== before) findings.push(`${name}: reset does not bring all back`);
  }
};

const filters = async (tab) => {
  for (const button of await tab.locator("[data-filter]").all()) {
    const kind = await button.getAttribute("data-filter");
    await button.click();
    const wrong = await tab.evaluate((wanted) => [...document.querySelectorAll("tr.claim")].filter((row) => row.checkVisibility()
      && wanted && !row.dataset.kinds.split(" ").includes(wanted)).length, kind);
    const shown = await tab.locator("tr.claim:visible, .figure:visible").count();
    if (wrong || !shown) findings.push(`filter ${kind}: ${wrong} wrong claims, ${shown} shown`);
  }
  const all = tab.locator("[data-filter='']");
  if (await all.count()) await all.click();
  for (const button of await tab.locator("[data-optimizer]").all()) {
    const name = await button.getAttribute("data-optimizer");
    await button.click();
    const shown = await tab.evaluate(() => [...document.querySelectorAll(".figure[data-optimizers]")].filter((figure) => figure.checkVisibility())
      .map((figure) => figure.dataset.optimizers.split("|")));
    const told = await button.locator("small").count() ? +(await button.locator("small").innerText()) : shown.length;
    if (name && await tab.locator("#failing:visible").count()) findings.push(`optimizer ${name}: the list of all that fails stays above`);
    if (!shown.length || shown.length !== told || (name && shown.some((names) => !names.includes(name)))) findings.push(`optimizer ${name}: ${shown.length} figures are shown`);
  }
  const any = tab.locator("[data-optimizer='']");
  if (await any.count()) await any.click();
};

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  for (const [width, colorScheme] of [[1366, "light"], [768, "dark"], [360, "light"]]) {
    const where = `${width} px, ${colorScheme}`;
    const tab = await browser.newPage({ viewport: { width, height: 768 }, colorScheme });
    tab.on("console", (message) => message.type() === "error" && findings.push(`${where}: console: ${message.text()}`));
    tab.on("pageerror", (error) => findings.push(`${where}: ${error.message}`));
    tab.on("request", (request) => /^(file|data|blob):/.test(request.url()) || findings.push(`${where}: asks for ${request.url()}`));
    await tab.goto(pathToFileURL(path).href);
    for (const plot of await drawAll(tab)) findings.push(`${where}: nothing is drawn in ${plot}`);
    if (width === 1366 && colorScheme === "light") {
      await series(tab);
      await filters(tab);
    }
    await tab.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
    const wide = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (wide > 0) {
      const culprits = await tab.evaluate(() => [...document.body.querySelectorAll("*")].filter((element) => !element.closest(".wide, .caption table, svg")
        && element.getBoundingClientRect().right > document.documentElement.clientWidth + 1).slice(0, 5).map((element) => element.outerHTML.slice(0, 120)));
      findings.push(`${where}: ${wide} px too wide: ${culprits.join("  ")}`);
    }
    if (await tab.evaluate(() => "hacked" in window)) findings.push(`${where}: a text was run as a script`);
    await tab.evaluate(axe.source);
    const { violations } = await tab.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    for (const violation of violations.filter(({ impact }) => impact === "serious" || impact === "critical")) {
      const [first] = violation.nodes;
      findings.push(`${where}: ${violation.id} at ${violation.nodes.length} places, first ${first.target}: ${first.failureSummary}`);
    }
    await tab.close();
  }
  await browser.close();
  console.log(JSON.stringify(findings));
})();
