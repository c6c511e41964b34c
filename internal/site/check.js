// Checks that each link in the site to another of its pages, or to a heading,
// leads somewhere, and that each page can be reached from the first one.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { posix } from "node:path";

const pages = readdirSync("site", { recursive: true }).filter((f) => f.endsWith(".html"));
const text = new Map(pages.map((p) => [p, readFileSync("site/" + p, "utf8")]));
const links = new Map();
let bad = 0;
const complain = (what) => (console.error(what), bad++);
for (const [page, html] of text) {
  const to = [];
  for (const [, href] of html.matchAll(/href="([^"]*)"/g)) {
    if (/^[a-z]+:/.test(href)) continue;
    const [path, anchor] = href.split("#");
    const target = path ? posix.normalize(posix.join(posix.dirname(page), path)) : page;
    to.push(target);
    if (!existsSync("site/" + target)) complain(`${page} links to ${href}, which is not there`);
    else if (anchor && !text.get(target)?.includes(`id="${anchor}"`)) complain(`${page} links to ${href}, which has no such heading`);
  }
  links.set(page, to);
}
const reached = new Set(["index.html"]);
for (const page of reached) for (const to of links.get(page) ?? []) reached.add(to);
for (const page of pages) if (!reached.has(page)) complain(`no link leads to ${page}`);
console.log(`site: ${pages.length} pages, ${bad} faults`);
process.exit(bad || !pages.length ? 1 : 0);
