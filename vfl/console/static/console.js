"use strict";
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
const kept = sessionStorage.getItem("theme");
if (kept === "dark" || kept === "light") { root.dataset.theme = kept; }
const theme = document.getElementById("theme");
if (theme) {
  const nameTheme = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    sessionStorage.setItem("theme", root.dataset.theme);
    nameTheme();
  });
  prefersDark.addEventListener("change", nameTheme);
  theme.hidden = false;
  nameTheme();
}
const stream = document.body.dataset.stream;
if (stream) {
  const source = new EventSource(stream);
  const part = document.getElementById("part");
  const news = document.getElementById("news");
  source.addEventListener("news", (event) => {
    if (news.textContent !== event.data) { news.textContent = event.data; }
  });
  source.addEventListener("part", (event) => {
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    const closed = new Set([...part.querySelectorAll("article")].filter((one) => one.querySelector("details:not([open])"))
      .map((one) => one.getAttribute("aria-labelledby")));
    part.innerHTML = event.data;
    for (const one of part.querySelectorAll("article")) {
      if (closed.has(one.getAttribute("aria-labelledby"))) { one.querySelector("details").open = false; }
    }
    if (focused) { document.getElementById(focused)?.focus({ preventScroll: true }); }
  });
  source.addEventListener("over", () => { source.close(); location.assign("/signin"); });
}
for (const form of document.querySelectorAll("form[data-most]")) {
  const boxes = [...form.querySelectorAll("input[type=checkbox]")];
  const bound = () => {
    const chosen = boxes.filter((box) => box.checked).length;
    for (const box of boxes) { box.disabled = !box.checked && chosen >= Number(form.dataset.most); }
  };
  form.addEventListener("change", bound);
  bound();
}
