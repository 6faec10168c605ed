'use strict'
// ---- Sending pictures, two at a time

const $ = (q, at = document) => at.querySelector(q), $$ = (q, at = document) => [...at.querySelectorAll(q)]
const page = JSON.parse($('main').dataset.page), todo = []
const files = new WeakMap(), asked = new WeakMap()    // card → picture, or null; and the title that it was answered with
const built = html => { const t = document.createElement('template'); t.innerHTML = html; return t.content.firstElementChild }
const titleBox = card => $('[name=title]', card)

function put(card, file, title) {
  files.set(card, file); asked.set(card, title); $('h2', card).textContent = file ? file.name : title
  if ($('#box')) { $('h2', card).after($('#box').content.cloneNode(true)); titleBox(card).value = title }
  return card
}

async function post(path, query, body) {
  const options = {method: 'POST', body, headers: {'content-type': 'application/octet-stream'}}
  const r = await fetch(path + '?' + new URLSearchParams(query), options)
    .catch(() => { throw Error('could not be sent: the file was removed, or the server was stopped') })
  if (r.status == 503) throw Error('the server is busy: try again in a moment')
  if (!r.ok) throw Error(r.status < 500 ? await r.text() : 'server error; its terminal shows the reason')
  return r
}

function failed(why) {
  const card = built('<article class="card failed"><div><h2></h2><p class="flag"></p></div></article>')
  $('.flag', card).textContent = 'Could not be used: ' + why
  card.dataset.rows = JSON.stringify([['', '', '', why, '']])
  return card
}

async function tag(card) {
  const file = files.get(card), query = new FormData($('#how'))
  const title = titleBox(card)?.value.trim() || (file ? '' : asked.get(card)), focused = card.contains(document.activeElement)
  query.set('title', new Blob([title]).size)
  const request = () => post('/tag', query, new Blob([title, file ?? ''])).then(r => r.text()).then(built).catch(e => failed(e.message))
  const fresh = file?.size > page.bytes ? failed(page.too_large) : await request()
  if (!card.isConnected) return
  card.replaceWith(put(fresh, file, title))
  if (focused) titleBox(fresh)?.focus()
}

async function work() {
  for (let card; card = todo.shift(); updateStatus()) if (card.isConnected) await tag(card)
}

function add(chosen) {    // pairs of a picture, or null, and a title
  const fit = chosen.slice(0, Math.max(0, page.files - $$('.card').length))
  const cards = fit.map(o => put(built('<article class="card waiting"><div><h2></h2><p>Waiting …</p></div></article>'), ...o))
  const left = chosen.length - fit.length
  const more = `${left} pictures were left out: the limit of this page is ${page.files}. For more use the command catalog_tagger tag.`
  $('#note').textContent = left ? more : ''
  $('#cards').prepend(...cards); start(cards)
}

function again(cards) { cards.forEach(o => o.classList.add('waiting')); start(cards) }

function start(cards) { todo.push(...cards); updateStatus(); for (let i = 0; i < 2; i++) work() }

// ---- Heat maps, words and similar products

const shown = new WeakMap()    // image → source and caption without heat map

function showWhy(card, button) {
  const on = button.ariaPressed != 'true'
  $$('[data-tag]', card).forEach(o => o.ariaPressed = o == button && on)
  if ($('img', card)) showHeat(card, button, on)
  if ($('.words', card)) showWords($('.words', card), asked.get(card), button, on)
}

async function showWords(at, title, button, on) {
  const words = !on ? '' : await post('/words', {tag: button.dataset.tag}, title).then(r => r.text()).then(built).catch(e => e.message)
  if (on == (button.ariaPressed == 'true')) at.replaceChildren(words)
}

async function showHeat(card, button, on) {
  const img = $('img', card), text = $('figcaption', card)
  if (!shown.has(img)) shown.set(img, [img.src, text.textContent])
  let [src, words] = shown.get(img)
  if (on) try {
    const heat = await post('/heat', {tag: button.dataset.tag}, files.get(card)).then(r => r.blob())
    if (button.ariaPressed != 'true') return    // meanwhile pressed again, or another tag
    src = URL.createObjectURL(heat)
    words = `Yellow raises the score of ${button.textContent}. Click it again to see the picture.`
  } catch (e) { words = e.message; button.ariaPressed = Boolean($('.words', card)) }
  img.src = src; text.textContent = words
}

async function showSimilar(card, at) {
  if ($('ol', at)) return
  at.replaceChildren(await post('/similar', {}, files.get(card)).then(r => r.text()).then(built).catch(e => e.message))
}

// ---- Correcting

const fields = card => $$('[data-group]', card), now = o => o.value.trim() || o.dataset.predicted
const fieldOf = (card, label) => fields(card)[page.group[label]]
const name = card => files.get(card)?.name ?? asked.get(card)

function corrections(card) {
  const row = (o, group, correct) => [name(card), group, o.dataset.predicted, o.dataset.score, correct]
  const changed = fields(card).filter(o => now(o) != o.dataset.predicted).map(o => row(o, o.dataset.group, now(o)))
  const removed = $$('[data-predicted]:not(:checked)[type=checkbox]', card).map(o => row(o, '', ''))
  return [...changed, ...removed, ...$$('[data-new]:checked', card).map(o => [name(card), '', '', '', o.dataset.new])]
}

function correct(card, field) {
  const word = field.value.trim()
  if (field.dataset.more && word) {
    const box = built('<label class="box"><input type="checkbox" checked></label>')
    box.firstChild.dataset.new = word; box.append(word); field.closest('label').before(box); field.value = ''
  }
  for (let p = page.parents[word]; p; p = page.parents[p]) {
    const o = fieldOf(card, p)
    if (o) o.value = p == o.dataset.predicted ? '' : p
  }
  const conflicts = ([o, p]) => p && fieldOf(card, p) && ![p, ''].includes(now(fieldOf(card, p)))
  const odd = fields(card).map(o => [o, page.parents[now(o)]]).filter(conflicts)
  fields(card).forEach(o => o.ariaInvalid = odd.some(([q]) => q == o))
  const n = corrections(card).length
  $('.correct summary', card).textContent = n ? `Corrected (${n})` : 'Correct'
  $('.odd', card).textContent = odd.map(([o, p]) => `${now(o)} belongs to ${p}, not to ${now(fieldOf(card, p))}.`).join(' ')
}

// ---- Status and downloads

let saved = true    // have all corrections been downloaded?

function updateStatus() {
  const count = kind => $$('.card' + kind).length, all = count(''), wait = count('.waiting')
  const fixed = $$('.card').flatMap(corrections).length
  const parts = [[count('.look') + count('.outside'), 'to review'], [count('.failed'), 'could not be used'],
                 [fixed, fixed == 1 ? 'correction' : 'corrections']]
  $('#status').textContent = all ? [`${all - wait} of ${all} pictures`, ...parts.filter(o => o[0]).map(o => o.join(' '))].join(', ') : ''
  Object.assign($('progress'), {max: all, value: all - wait, hidden: !wait})
  $('#tools').hidden = !all; $('#tags').disabled = wait > 0; $('#corrections').disabled = !fixed
}

async function download(kind, rows) {
  try {
    const blob = await post('/csv', {kind}, JSON.stringify(rows)).then(r => r.blob())
    Object.assign(document.createElement('a'), {href: URL.createObjectURL(blob), download: kind + '.csv'}).click()
    if (kind == 'corrections') saved = true
  } catch (e) { $('#note').textContent = e.message }
}

const press = (id, f) => $(id).addEventListener('click', f)
press('#tags', () => download('tags', $$('.card').flatMap(o => JSON.parse(o.dataset.rows).map(r => [name(o), ...r]))))
press('#corrections', () => download('corrections', $$('.card').flatMap(corrections)))
press('#clear', () => {
  if (!saved && !confirm('Some corrections were not downloaded. Remove all?')) return
  $('#cards').replaceChildren(); saved = true; updateStatus()
})
$('#pictures').addEventListener('change', e => { add([...e.target.files].map(o => [o, ''])); e.target.value = '' })
$('#alone')?.addEventListener('submit', e => {
  const box = titleBox(e.target), title = box.value.trim()
  e.preventDefault(); box.value = ''; if (title) add([[null, title]])
})
$('#how').addEventListener('change', () => {
  const cards = $$('.card').filter(o => !o.matches('.waiting') && !corrections(o).length)
  if ($('#how').reportValidity()) again(cards)
})
$('#cards').addEventListener('submit', e => {
  const card = e.target.closest('.card'), n = corrections(card).length
  e.preventDefault()
  if (!card.matches('.waiting') && (!n || confirm('The corrections of this card will be removed. Tag it again?'))) again([card])
})
$('#how').addEventListener('submit', e => e.preventDefault())
$('#cards').addEventListener('click', e => { if (e.target.dataset.tag) showWhy(e.target.closest('.card'), e.target) })
$('#cards').addEventListener('toggle', e => {
  if (e.target.open && e.target.matches('.similar')) showSimilar(e.target.closest('.card'), $('div', e.target))
}, true)
$('#cards').addEventListener('change', e => {
  if (e.target.closest('.correct')) { correct(e.target.closest('.card'), e.target); saved = false; updateStatus() }
})
addEventListener('beforeunload', e => { if (!saved) e.preventDefault() })
for (const [kind, on] of [['dragenter', true], ['dragover', true], ['dragleave', false], ['drop', false]])
  $('.drop').addEventListener(kind, () => $('.drop').classList.toggle('over', on))
updateStatus()
