/** The report's styles: light or dark according to the reader's settings, for desktop, phone and print. Colours are Okabe and Ito's, with lighter variants of the same hues on dark backgrounds. */
export const style = `
:root { color-scheme: light dark; --ink: #1a1a1a; --ground: #ffffff; --line: #8884; --grid: #e6e6e6; --axis: #999999; --link: #0060a0; --yes: #006b4d; --no: #ad4400;
  --c0: #0072B2; --c1: #D55E00; --c2: #008060; --c3: #B05590; --c4: #B07800; --c5: #3a94cf; --c6: #000000 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --ground: #16181c; --grid: #33363c; --axis: #777777; --link: #7cc0f0; --yes: #35c295; --no: #f0813a;
  --c0: #4aa8e8; --c1: #f0813a; --c2: #35c295; --c3: #e095c0; --c4: #E69F00; --c5: #8fd0f5; --c6: #ffffff } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink); background: var(--ground); overflow-wrap: anywhere }
h1, h2, h3 { line-height: 1.25 } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem } h3 { margin: 1.8rem 0 .3rem; font-size: 1.05rem }
a { color: var(--link) } nav ol { columns: 2; padding-left: 1.5rem } small { opacity: .75 }
figure { margin: .5rem 0 } figure svg { display: block; max-width: 100%; height: auto } .on-narrow { display: none }
figcaption, .caption { max-width: 46rem; margin: .3rem 0 }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; margin: .5rem 0; font-size: 13px; overflow-wrap: normal }
th, td { padding: 3px .6rem; line-height: 20px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
.wide { overflow-x: auto } .wide td { white-space: nowrap } .wide th { vertical-align: bottom } .wide td:first-child, .wide th:first-child { position: sticky; left: 0; background: var(--ground) }
details { margin: .3rem 0 1rem } summary { cursor: pointer; font-size: 13px }
dl { margin: 0 } dl div { display: flex; gap: .8rem; padding: .2rem 0; border-bottom: 1px solid var(--line) } dt { flex: 0 0 9rem; font-weight: 600 } dd { margin: 0; min-width: 0 }
.said-so { list-style: none; padding: 0 } .said-so li { display: flex; gap: .8rem; padding: .25rem 0; border-bottom: 1px solid var(--line) } .said-so b { flex: 0 0 6.5rem }
.said-so .open { opacity: .75; font-weight: normal } .said-so .no { color: var(--no) } .said-so .yes { color: var(--yes) }
article { border: 1px solid var(--line); border-radius: 6px; padding: .6rem 1rem; margin: 1rem 0 } article p { margin: .2rem 0; white-space: pre-wrap } article table { width: 100% } .said { white-space: pre-wrap; overflow-wrap: anywhere; width: 70% }
@media (max-width: 640px) {
  body { margin: 1rem auto; padding: 0 .8rem } nav ol { columns: 1 } .on-wide { display: none } .on-narrow { display: block }
  dl div, .said-so li { display: block } article { padding: .5rem .6rem } article thead { display: none } article tr { display: block; padding: .3rem 0; border-bottom: 1px solid var(--line) }
  article th, article td { display: block; border: 0; padding: .1rem 0; width: auto } article td:not(.said) { display: inline-block; padding-right: 1rem; opacity: .75 }
  article .said { width: auto } article td[data-score]::before { content: attr(data-score) " " }
}
@media print {
  :root { color-scheme: light; --ink: #000; --ground: #fff; --grid: #ddd; --axis: #888; --c0: #0072B2; --c1: #D55E00; --c2: #009E73; --c3: #CC79A7; --c4: #E69F00; --c5: #56B4E9; --c6: #000 }
  body { max-width: none; margin: 0; font-size: 11px } .on-wide { display: block } .on-narrow { display: none } nav, details { display: none } figure, article, tr { break-inside: avoid } h2, h3 { break-after: avoid } .wide { overflow: visible } .wide table { font-size: 8.5px } .wide td, .wide th { white-space: normal; padding: .1rem .25rem; line-height: 1.4; overflow-wrap: break-word }
}
`
