"""Figures: the picture, the numbers in it, its caption, and a description for the page."""


rule draw:
    input:
        metrics=metric_tables,
    output:
        pdf="results/{paper}/figures/{figure}.pdf",
        png=report(
            "results/{paper}/figures/{figure}.png",
            caption="../report/figure.rst",
            category="{paper}",
            labels=picture_labels,
        ),
        csv=report(
            "results/{paper}/figures/{figure}.csv",
            caption="../report/figure.rst",
            category="{paper}",
            labels=numbers_labels,
        ),
        caption="results/{paper}/figures/{figure}.rst",
        description="results/{paper}/figures/{figure}.json",
    log:
        "results/{paper}/logs/draw/{figure}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        python=python,
        plan=handed(jobs.for_figure, "figure"),
        code=figures_code,
        metrics=metrics_folder,
    shell:
        "{params.python} -m workflow.lib draw"
        " --paper {wildcards.paper}"
        " --figure {wildcards.figure}"
        " --plan {params.plan:q}"
        " --metrics {params.metrics:q}"
        " --pdf {output.pdf:q}"
        " --png {output.png:q}"
        " --csv {output.csv:q}"
        " --caption {output.caption:q}"
        " --description {output.description:q}"
        " 2>&1 | tee {log:q}"
