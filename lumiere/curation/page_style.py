"""Holds the style and the script of the curation page."""

STYLE = """
:root { color-scheme: light; --line: #d5d9de; --dim: #5b6570; --blue: #2f6db3; --red: #c0392b; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2126; background: #f6f7f8; margin: 0; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 28px 80px; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 20px; margin: 40px 0 6px; }
p { margin: 4px 0 12px; max-width: 80ch; } .dim, small { color: var(--dim); }
code { background: #e9ecef; padding: 0 4px; border-radius: 3px; font-size: 90%; }
nav { margin: 10px 0 18px; } nav a { margin-right: 16px; color: var(--blue); }
.figures { display: flex; flex-wrap: wrap; gap: 12px; }
.figure { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 8px 16px; }
.figure b { display: block; font-size: 24px; }
.warning { background: #fff6e0; border: 1px solid #e6c46a; border-radius: 6px; padding: 8px 14px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(370px, 1fr)); gap: 14px; }
.chart { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; }
.chart h3 { margin: 0; font-size: 15px; } .chart svg { width: 100%; height: auto; display: block; }
.chart label { display: block; margin-top: 4px; } .chart input { width: 100%; }
.chart output { display: block; min-height: 42px; }
.funnel { display: grid; grid-template-columns: max-content 1fr; gap: 3px 12px; }
.funnel div { background: var(--blue); color: #fff; padding: 0 6px; border-radius: 3px; min-width: 40px; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 12px; }
.clip { background: #fff; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
.clip img { display: block; width: 100%; background: #e9ecef; }
.clip div { padding: 6px 10px 8px; } .clip b { overflow-wrap: anywhere; }
.clip ul { margin: 2px 0; padding-left: 18px; }
.clip.out { opacity: .3; outline: 3px solid var(--red); } .clip.in { outline: 3px solid #2e8b57; }
.badge { border-radius: 3px; padding: 0 6px; font-size: 12px; background: #e3ecf7; color: #1d4f88; }
.badge.validation { background: #e5f3e8; color: #1d6b35; }
.badge.note { background: #fff0cc; color: #7a5600; } .badge.reason { background: #fbe4e1; color: #97281c; }
.groups { display: flex; flex-wrap: wrap; gap: 10px; }
.group { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px; }
.pictures { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 6px; }
figure { margin: 0; width: 132px; } figure img { width: 132px; display: block; }
figcaption { font-size: 12px; overflow-wrap: anywhere; }
.search { width: 100%; max-width: 420px; padding: 6px 10px; font: inherit; margin-bottom: 10px; }
"""

# Moving a threshold marks the clips whose verdict would change. A clip that another check rejects
# stays rejected.
SCRIPT = """
const clips = [...document.querySelectorAll('.clip')];
const inputs = [...document.querySelectorAll('input[type=range]')];
const measured = JSON.parse(document.getElementById('scores').textContent);
const valueOf = input => input.dataset.log
  ? (+input.value <= +input.min ? 0 : 10 ** input.value) : +input.value;
function apply() {
  const limits = inputs.map(input => ({
    key: input.dataset.key, reason: input.dataset.reason, strict: input.dataset.strict, upper: input.dataset.upper,
    limit: input.dataset.moved ? valueOf(input) : +input.dataset.now, input}));
  const passes = (clip, l) => l.upper ? clip[l.key] <= l.limit + 1e-6
    : l.strict ? clip[l.key] > l.limit : clip[l.key] >= l.limit - 1e-6;
  const now = {};
  for (const clip of measured) {
    const open = clip.reason === '' || !clip.stays && limits.some(l => l.reason === clip.reason);
    now[clip.id] = open && limits.every(l => passes(clip, l)) ? '' : 'rejected';
  }
  for (const l of limits) {
    const dropped = measured.filter(c => c.reason === '' && !passes(c, l)).length;
    const gained = measured.filter(c => c.reason === l.reason && now[c.id] === '').length;
    const kept = measured.filter(c => c.reason === '').length - dropped;
    const limit = Number.isFinite(l.limit) ? +l.limit.toPrecision(3) : 'off';
    l.input.parentNode.querySelector('output').textContent =
      `${l.input.dataset.name}: ${limit} keeps ${kept} of the accepted clips, drops ${dropped}, ` +
      `and adds ${gained} of the rejected ones.`;
  }
  for (const card of clips) {
    const was = card.dataset.reason, is = now[card.dataset.id];
    card.classList.toggle('out', was === '' && is === 'rejected');
    card.classList.toggle('in', was !== '' && is === '');
  }
}
inputs.forEach(input => input.addEventListener('input', () => { input.dataset.moved = 1; apply(); }));
document.querySelector('.search').addEventListener('input', event => {
  const words = event.target.value.toLowerCase().split(' ').filter(Boolean);
  clips.forEach(card => card.hidden = !words.every(w => card.textContent.toLowerCase().includes(w)));
});
apply();
"""
