// The pages in docs, and those beside the README, as a static site in the folder
// site. Links between pages become links between files, so that the site works
// in any folder and without a server. Links to other files of the repository go
// to GitHub.
import { readFileSync } from "node:fs";
import { basename, posix } from "node:path";
import { IdAttributePlugin } from "@11ty/eleventy";

const repository = "https://github.com/anyvisor/anyvisor/blob/main/";
const top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

// fileFor returns the file in the site for a path in the repository, or
// undefined.
function fileFor(path) {
  if (path === "README.md") return "index.html";
  if (!path.endsWith(".md")) return undefined;
  if (top.includes(path)) return path.replace(/md$/, "html");
  if (path.startsWith("docs/")) return path.slice("docs/".length).replace(/md$/, "html");
}

// sourceOf is the reverse of fileFor.
function sourceOf(file) {
  if (file === "index.html") return "README.md";
  const md = file.replace(/html$/, "md");
  return top.includes(md) ? md : "docs/" + md;
}

// link returns where a link of the page in file leads.
function link(file, href) {
  if (/^([a-z]+:|#)/.test(href)) return href;
  const [path, anchor] = href.split("#");
  const source = posix.normalize(posix.join(posix.dirname(sourceOf(file)), path));
  const to = fileFor(source);
  const url = to ? posix.relative(posix.dirname(file), to) : repository + source;
  return anchor ? url + "#" + anchor : url;
}

const title = (html, file) => /<h1[^>]*>(.*?)<\/h1>/s.exec(html)?.[1].replace(/<[^>]+>/g, "") ?? basename(file, ".html");

export default function (config) {
  config.addPlugin(IdAttributePlugin);
  config.setTemplateFormats(["md"]);
  config.addGlobalData("permalink", () => (data) => data.page.filePathStem.slice(1) + ".html");
  for (const page of top) {
    config.addTemplate(page === "README.md" ? "index.md" : page, readFileSync(page, "utf8"));
  }
  config.addTransform("page", function (html) {
    const file = this.page.outputPath.replace(/^(\.\/)?site\//, "");
    const body = html.replace(/href="([^"]*)"/g, (_, href) => `href="${link(file, href)}"`);
    const home = posix.relative(posix.dirname(file), "index.html");
    return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${title(html, file)}</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8886; border-radius: 4px; }
table { display: block; overflow-x: auto; border-collapse: collapse; }
th, td { border: 1px solid #8886; padding: .25rem .5rem; text-align: left; vertical-align: top; }
</style>
</head>
<body>
<nav><a href="${home}">Anyvisor</a></nav>
<main>
${body}
</main>
</body>
</html>
`;
  });
  return { dir: { input: "docs", output: "site" }, markdownTemplateEngine: false };
}
