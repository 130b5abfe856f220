"""How the status page looks: light and dark, on a screen and on a phone."""

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f8; --card: #fff; --ink: #1a1d21; --faint: #5c6570; --line: #dfe3e8;
  --good: #14743c; --good-paper: #e2f4e8; --bad: #ab1f1f; --bad-paper: #fdeaea;
  --busy: #1757a6; --warn: #7a5200; --warn-paper: #fdf3dc;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1d2125; --ink: #e6e9ec; --faint: #9aa4ae; --line: #31373d;
    --good: #6fd596; --good-paper: #173022; --bad: #ff9a94; --bad-paper: #3a1c1c;
    --busy: #7db4f5; --warn: #f0c36a; --warn-paper: #33291a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.25rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .3rem .9rem; }
h1 { font-size: 1.35rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
p { margin: .3rem 0; }
.faint, .tile small { color: var(--faint); }
.state { border-radius: 1rem; padding: .1rem .8rem; font-weight: 600; }
.good { color: var(--good); background: var(--good-paper); }
.bad { color: var(--bad); background: var(--bad-paper); }
.problem {
  margin-top: .9rem; padding: .7rem .9rem; border-radius: .5rem;
  border-left: .3rem solid var(--bad); background: var(--bad-paper);
}
.problem strong { color: var(--bad); }
.problem.warning { border-color: var(--warn); background: var(--warn-paper); }
.problem.warning strong { color: var(--warn); }
.tiles {
  display: grid; gap: .8rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr));
}
.tile, .table {
  background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
}
.tile { padding: .7rem .9rem; overflow-wrap: anywhere; }
.tile h3 { font-size: .8rem; font-weight: 600; margin: 0; color: var(--faint); }
.tile .figure { font-size: 1.5rem; font-weight: 600; line-height: 1.35; }
.tile small { display: block; font-size: .82rem; }
.figure.good, .figure.bad { background: none; }
meter { width: 100%; height: .6rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem; }
th { color: var(--faint); font-size: .8rem; font-weight: 600; white-space: nowrap; }
tr + tr td, thead + tbody td { border-top: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td small { display: block; color: var(--faint); font-size: .82rem; font-weight: 400; }
td.short { white-space: nowrap; }
td.name { font-weight: 600; overflow-wrap: anywhere; }
td.words { overflow-wrap: anywhere; min-width: 16rem; }
.busy { color: var(--busy); font-weight: 600; }
.failed { color: var(--bad); }
code { font: .88em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
footer {
  display: flex; flex-wrap: wrap; align-items: center; gap: .4rem 1.2rem;
  margin: 2rem 0 1rem; color: var(--faint); font-size: .88rem;
}
a { color: inherit; }
button {
  font: inherit; padding: .3rem .8rem; border-radius: .4rem; cursor: pointer;
  color: var(--ink); background: var(--card); border: 1px solid var(--line);
}
form { margin: 0; }
@media (max-width: 46rem) {
  body { padding: .8rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .6rem; }
  thead { display: none; }
  table, tbody, tr, td { display: block; }
  tr { padding: .5rem .8rem; }
  tr + tr { border-top: 1px solid var(--line); }
  tr + tr td, thead + tbody td { border: 0; }
  td, td.number, td.short, td.words {
    padding: .1rem 0; text-align: left; white-space: normal; min-width: 0;
  }
  td[data-label] { display: grid; grid-template-columns: 7rem 1fr; gap: .5rem; }
  td[data-label]::before { content: attr(data-label); color: var(--faint); }
  td.zero { display: none; }
}
"""
