// Sorts a table by the column whose head is pressed: by data-order where cells have one, else by their text.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.order === undefined ? cell.textContent.trim() : Number(cell.dataset.order);
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  };
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const falling = head.getAttribute("aria-sort") === "ascending";
    const rows = [...body.rows].map((row, place) => [value(row, column), place, row]);
    rows.sort((a, b) => {
      const empty = a[0] === "" || b[0] === "";
      return (falling && !empty ? -1 : 1) * compare(a[0], b[0]) || a[1] - b[1];
    });
    body.append(...rows.map((entry) => entry[2]));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  }));
}
