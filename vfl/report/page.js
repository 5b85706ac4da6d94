"use strict";
const theme = document.getElementById("theme");
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
const nameTheme = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
prefersDark.addEventListener("change", nameTheme);
theme.hidden = false;
nameTheme();
for (const picker of document.querySelectorAll(".picker")) {
  const select = picker.querySelector("select");
  const items = picker.querySelectorAll(".item");
  const pick = () => items.forEach((item, place) => {
    item.classList.toggle("unpicked", select.value !== "all" && select.value !== String(place));
  });
  select.addEventListener("change", pick);
  picker.querySelector(".pick").hidden = false;
  pick();
}
