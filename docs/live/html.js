// What the widgets share: HTML as text, so that a frame drawn when the site is built and one drawn in the page are the same.

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** Text as HTML. */
export const escape = (text) => String(text).replace(/[&<>"']/g, (c) => ENTITIES[c]);

/** A token's text: spaces and line ends must be seen. */
export const token = (text) => `<code class="tok">${escape(text.replaceAll(" ", "␣").replaceAll("\n", "⏎"))}</code>`;

/** `12.3 k`: three digits and a unit, as `fs trace` writes them; a kB is 1000 bytes, as bandwidths are given. */
export function number(n, unit = "") {
    for (const prefix of ["", "k", "M", "G"]) {
        if (Math.abs(n) < 999.5 || prefix === "G") {
            const digits = prefix === "" || Math.abs(n) >= 99.95 ? 0 : 1;
            return `${n.toFixed(digits)} ${prefix}${unit}`.trim();
        }
        n /= 1000;
    }
}

/** A whole number that is to be read digit by digit: `14,700,512`. */
export const grouped = (n) => n.toLocaleString("en-US");

/** As HTML. */
export const percent = (p) => (p > 0 && p < 0.0005 ? "&lt;0.1 %" : `${(100 * p).toFixed(1)} %`);

/** A cell with a bar behind its text; the text says it all, the bar is for the eye. */
export const bar = (fraction, text) =>
    `<td class="share" style="--share:${Math.max(0, Math.min(1, fraction)).toFixed(4)}">${text}</td>`;

/** A table: `head` are texts, `rows` lists of cells that are HTML; a cell that is a whole `<td>` or `<th>` stays. */
export function table(caption, head, rows) {
    const cell = (html) => (/^<t[dh]/.test(html) ? html : `<td>${html}</td>`);
    const lines = rows.map((row) => `<tr${row.className ? ` class="${row.className}"` : ""}>${row.map(cell).join("")}</tr>`);
    return (
        `<div class="scroll" tabindex="0" role="region" aria-label="${escape(caption)}"><table><caption>${escape(caption)}</caption>` +
        `<thead><tr>${head.map((h) => `<th scope="col">${escape(h)}</th>`).join("")}</tr></thead>` +
        `<tbody>${lines.join("")}</tbody></table></div>`
    );
}

/** A widget's frame: a status line, which says what matters in it, and all else. */
export const frame = ({ now, view }) => `<p class="now" role="status">${now}</p><div class="view">${view}</div>`;

/** A row's heading. */
export const th = (html) => `<th scope="row">${html}</th>`;
