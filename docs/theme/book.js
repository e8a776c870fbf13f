// What the pages do with JavaScript: colours, search, the theme button, the current chapter. All text is readable without.
"use strict";

// Code in colours.
for (const code of document.querySelectorAll("pre code")) {
    if (/language-(rust|cpp)/.test(code.className)) hljs.highlightBlock(code);
}

// A region that has nothing to scroll is no stop for the keyboard, and no place of its own.
{
    const measure = (all) => {
        for (const { target: region } of all) {
            const scrolls = region.scrollWidth > region.clientWidth;
            if (scrolls) region.tabIndex = 0;
            else region.removeAttribute("tabindex");
            region.setAttribute("role", scrolls ? "region" : "group");
        }
    };
    const observer = new ResizeObserver(measure);
    for (const region of document.querySelectorAll(".wide")) observer.observe(region);
}

// Three and more columns of sentences do not fit beside each other on a phone: the style sheet then stacks them, and each cell says of
// which column it is. What a table is, it remains for who has it read aloud.
for (const table of document.querySelectorAll("main .wide:not(.live *) table")) {
    const titles = [...table.querySelectorAll("thead th")].map((title) => title.textContent);
    if (titles.length < 3 || table.querySelector('td[style*="right"]')) continue;
    table.classList.add("rows");
    table.setAttribute("role", "table");
    for (const group of table.querySelectorAll("thead, tbody")) group.setAttribute("role", "rowgroup");
    for (const row of table.querySelectorAll("tr")) row.setAttribute("role", "row");
    for (const title of table.querySelectorAll("th")) title.setAttribute("role", "columnheader");
    for (const cell of table.querySelectorAll("td")) {
        cell.setAttribute("role", "cell");
        const title = titles[cell.cellIndex];
        if (cell.cellIndex > 0 && title) cell.dataset.column = title;
    }
}

// The chapter that is open, marked and scrolled to.
{
    const here = location.pathname.replace(/\/$/, "/index.html");
    for (const link of document.querySelectorAll(".contents a")) {
        if (link.pathname === here) {
            link.setAttribute("aria-current", "page");
            const box = link.closest(".contents");
            box.scrollTop = link.offsetTop - box.clientHeight / 2;
        }
    }
    // On phones the chapters start folded.
    const narrow = matchMedia("(max-width: 60rem)");
    const fold = () => { document.getElementById("contents").open = !narrow.matches; };
    narrow.addEventListener("change", fold);
    fold();
}

// The theme: the system's, light, dark.
{
    const button = document.getElementById("theme");
    const order = ["system", "light", "dark"];
    const name = button.querySelector("b");
    const show = () => {
        name.textContent = document.documentElement.dataset.theme ?? "system";
        button.setAttribute("aria-label", `Theme: ${name.textContent}`);
    };
    button.addEventListener("click", () => {
        const root = document.documentElement;
        const next = order[(order.indexOf(root.dataset.theme ?? "system") + 1) % order.length];
        if (next === "system") delete root.dataset.theme;
        else root.dataset.theme = next;
        try { localStorage.setItem("fs-theme", next); } catch { /* no storage: for this page only */ }
        show();
    });
    show();
    button.hidden = false;
}

// Search: the index is loaded when the dialog opens.
{
    const open = document.getElementById("search-open");
    const dialog = document.getElementById("search");
    const words = document.getElementById("search-words");
    const count = document.getElementById("search-count");
    const list = document.getElementById("search-results");
    let index = null;

    const load = (source) => new Promise((resolve, reject) => {
        const script = document.createElement("script");
        Object.assign(script, { src: source, onload: resolve, onerror: reject });
        document.head.append(script);
    });

    async function ready() {
        if (index) return;
        count.textContent = "Loading …";
        window.search = {};
        await load(document.body.dataset.engine);
        await load(document.body.dataset.index);
        index = elasticlunr.Index.load(window.search.index);
        count.textContent = "";
    }

    // Some words around the first hit, with the hits marked.
    function excerpt(body, terms) {
        const text = body.replace(/\s+/g, " ");
        const small = text.toLowerCase();
        const hits = terms.map((term) => small.indexOf(term)).filter((at) => at >= 0);
        const start = Math.max(0, Math.min(...hits, text.length) - 60);
        const piece = text.slice(start, start + 180);
        const span = document.createElement("span");
        const pattern = new RegExp(terms.map((term) => term.replace(/[^\p{L}\p{N}]/gu, "\\$&")).join("|") || "$^", "gi");
        let end = 0;
        for (const match of piece.matchAll(pattern)) {
            if (!match[0]) continue;
            const mark = document.createElement("mark");
            mark.textContent = match[0];
            span.append(piece.slice(end, match.index), mark);
            end = match.index + match[0].length;
        }
        span.append(piece.slice(end));
        return span;
    }

    function find() {
        list.replaceChildren();
        const terms = words.value.toLowerCase().split(/\s+/).filter(Boolean);
        if (!index || !terms.length) { count.textContent = ""; return; }
        const { limit_results: most } = window.search.results_options;
        const found = index.search(words.value, window.search.search_options);
        count.textContent = found.length === 1 ? "One place" : `${found.length} places`;
        for (const { ref, doc } of found.slice(0, most)) {
            const item = document.createElement("li");
            const link = document.createElement("a");
            link.href = window.search.doc_urls[ref];
            link.textContent = doc.breadcrumbs || doc.title;
            item.append(link, excerpt(doc.body, terms));
            list.append(item);
        }
    }

    if (open) {
        let wait;
        open.hidden = false;
        open.addEventListener("click", async () => {
            dialog.showModal();
            words.focus();
            try { await ready(); } catch { count.textContent = "The index could not be loaded."; }
            find();
        });
        // In a field for searching, the first Escape would only empty it.
        words.addEventListener("keydown", (event) => { if (event.key === "Escape") dialog.close(); });
        words.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(find, 120); });
        list.addEventListener("click", (event) => { if (event.target.closest("a")) dialog.close(); });
    }
}

// On the page of all pages, Print prints.
if (document.body.classList.contains("print")) {
    document.querySelector('.tools a[href="print.html"]').addEventListener("click", (event) => {
        event.preventDefault();
        print();
    });
}

// The widgets: their frames are in the page already. A page of all pages runs none, and a file cannot load modules.
if (document.querySelector(".live") && !document.body.classList.contains("print") && location.protocol.startsWith("http")) {
    import("./live/live.js");
}
