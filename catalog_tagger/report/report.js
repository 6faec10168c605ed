// A button in a column header sorts the table
for (const button of document.querySelectorAll('th button')) button.onclick = () => {
  const th = button.parentElement, body = th.closest('table').tBodies[0], sign = th.ariaSort == 'ascending' ? -1 : 1
  const key = row => { const o = row.cells[th.cellIndex]; return 'value' in o.dataset ? +o.dataset.value : o.textContent }
  const words = (a, b) => String(a).localeCompare(String(b), undefined, {numeric: true})
  const order = (a, b) => typeof a == 'number' && typeof b == 'number' ? a - b : words(a, b)
  const rows = [...body.rows].map(row => [key(row), row]).sort(([a], [b]) => (a === '–') - (b === '–') || sign*order(a, b))
  for (const o of th.parentElement.cells) o.removeAttribute('aria-sort')
  th.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending')
  body.append(...rows.map(o => o[1]))
}
