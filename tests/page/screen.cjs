// The first screen of a page as a picture: node screen.cjs CHROMIUM PAGE PICTURE
"use strict";
const { pathToFileURL } = require("url");
const { chromium } = require("playwright-core");

const [executablePath, page, path] = process.argv.slice(2);

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const tab = await browser.newPage({ viewport: { width: 1366, height: 1000 } });
  await tab.goto(pathToFileURL(page).href);
  await tab.waitForTimeout(500);
  await tab.screenshot({ path });
  await browser.close();
})();
