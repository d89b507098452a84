"""How the page looks: one sheet for day and night, for wide screens, telephones and paper."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--card:#f6f7f9;--ink:#1b1f24;--soft:#58616c;--line:#dfe3e8;--link:#0b5fa5;
--good:#18704a;--caution:#8f5600;--problem:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1c2026;--ink:#e5e8ec;--soft:#a0a9b4;--line:#313841;
--link:#7db8ea;--good:#6cc79b;--caution:#e3ad55;--problem:#f2918a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
main,header,footer{max-width:66rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
h1{font-size:1.875rem;line-height:1.2;font-weight:650;letter-spacing:-.01em;margin:.25rem 0 .5rem}
h2{font-size:1.25rem;line-height:1.3;font-weight:650;margin:0 0 .25rem}
h3{font-size:1rem;font-weight:650;margin:1.75rem 0 .25rem}
p{margin:.5rem 0;max-width:44rem;text-wrap:pretty}
a{color:var(--link)}
section{margin-top:3rem;padding-top:1.5rem;border-top:1px solid var(--line)}
.eyebrow,.note,figcaption,footer,dt,dd small,.advice{color:var(--soft);font-size:.875rem}
.eyebrow{margin:0}
.lead{font-size:1.0625rem}
nav{margin-top:1rem}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;margin:0;padding:0;font-size:.875rem}
.key{display:grid;grid-template-columns:repeat(auto-fit,minmax(12.5rem,1fr));gap:1px;margin:1.5rem 0 0;
background:var(--line);border:1px solid var(--line);border-radius:10px;overflow:hidden}
.key div{background:var(--card);padding:.9rem 1.1rem 1rem}
.key dt{font-weight:500}
.key dd{margin:.1rem 0 0;font-size:1.5rem;font-weight:600;line-height:1.25;font-variant-numeric:tabular-nums}
.key dd span{font-size:1rem;font-weight:400;color:var(--soft);white-space:nowrap}
.key dd small{display:block;font-weight:400;line-height:1.4;margin-top:.2rem}
.verdicts{list-style:none;margin:1rem 0 0;padding:0;border-top:1px solid var(--line)}
.verdicts li{display:grid;grid-template-columns:9rem 1fr;gap:.1rem 1.25rem;padding:.8rem 0;
border-bottom:1px solid var(--line)}
.verdicts li:last-child{border-bottom:0}
.verdicts p{margin:0}
.verdicts .advice{margin-top:.2rem}
.tone{font-size:.875rem;font-weight:600;padding-top:.08rem}
.tone::before{content:"";display:inline-block;width:.6em;height:.6em;margin-right:.5em;border-radius:50%;
background:currentColor}
.open .tone{color:var(--soft)}
.problem .tone{color:var(--problem)}.caution .tone{color:var(--caution)}.good .tone{color:var(--good)}
.open .tone::before{background:none;border:2px solid currentColor}
.caution .tone::before{border-radius:1px;transform:rotate(45deg) scale(.9)}
.problem .tone::before{border-radius:1px}
.pictures{columns:26rem;column-gap:3rem;margin-top:1.25rem}
figure{margin:0 0 2.25rem;break-inside:avoid}
svg{display:block;width:100%;height:auto;color:var(--ink)}
svg text{fill:currentColor}
figcaption{margin-top:.6rem;max-width:36rem}
figcaption b{color:var(--ink);font-weight:600}
.scroll{overflow-x:auto;margin:1rem 0;max-width:100%}
table{border-collapse:collapse;font-size:.9375rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:.45rem 1.25rem .45rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);
font-weight:400}
thead th{color:var(--soft);font-size:.8125rem;white-space:nowrap}
tbody th{font-weight:500;white-space:nowrap}
.numbers td,.numbers thead th:not(:first-child){text-align:right;white-space:nowrap}
.numbers th:last-child,.numbers td:last-child{padding-right:0}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.9rem 1.1rem;overflow-x:auto;
font-size:.8125rem;line-height:1.5;max-width:100%}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.missing{border-left:3px solid var(--caution);padding:.1rem 0 .1rem 1rem;margin:1.25rem 0 0}
details{margin:.35rem 0 0}
summary{cursor:pointer;color:var(--link);font-size:.875rem}
details p{white-space:pre-line}
.verdicts details p{margin:.35rem 0;font-size:.875rem}
:not(pre)>code{font-size:.9em;overflow-wrap:anywhere}
.facts{columns:24rem;column-gap:3rem}
.facts>*{break-inside:avoid;padding-top:1.25rem}
.facts h3{margin-top:0}
.facts .scroll{margin-top:.25rem}
.facts td{overflow-wrap:anywhere}
footer{margin-top:3rem;padding-top:1.25rem;padding-bottom:2.5rem;border-top:1px solid var(--line)}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
@media (max-width:40rem){header{padding-top:1.5rem}h1{font-size:1.5rem}section{margin-top:2.25rem}
.verdicts li{grid-template-columns:1fr}.key{grid-template-columns:1fr}}
@media print{:root{--paper:#fff;--card:#fff;--ink:#000;--soft:#333;--line:#bbb;--link:#000;--good:#000;--caution:#000;
--problem:#000}body{font-size:10pt}nav,:focus-visible{display:none}figure,li,tr,.key{break-inside:avoid}
h2,h3{break-after:avoid}section{margin-top:1.5rem}.scroll{overflow:visible}pre{white-space:pre-wrap}
header,main,footer{max-width:none;padding-left:0;padding-right:0}}
"""
