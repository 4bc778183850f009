"""L5: charts, tables and pages of runs and comparisons, from plain records.

A chart is described once, by matplotlib: a function ``plain numbers -> Figure``. The PNG and SVG files are that figure,
and the HTML page (``html/``) has its SVG inline, in the page's own font and colours. No SVG is written by hand, because
a well-kept library knows ticks, logarithms, legends and layout, and because two descriptions of one chart drift apart.
What is lost, values under the pointer, stands in the tables and in the label that is read out aloud.

style     colours, fonts, panels; a figure as a file (``save``) and inside a page (``inline``)
plots, spectra, heatmaps   figures of a run;  charts: a run's folder as charts, with their words, for files and page
compare_plot, compare      figure of a comparison; its tables and files;  field: its rows, ordered for the page
tables, words, read        tables of runs; numbers in words; what a run's folder holds
"""
