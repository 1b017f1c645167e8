"""Claims: every entry of a paper's ledger, measured; then one table of all papers."""


rule judge:
    input:
        metrics=metric_tables,
    output:
        claims="results/{paper}/claims.csv",
        markdown="results/{paper}/claims.md",
    log:
        "results/{paper}/logs/judge.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        python=python,
        plan=handed(jobs.for_claims),
        code=claims_code,
        metrics=metrics_folder,
    shell:
        "{params.python} -m workflow.lib judge"
        " --paper {wildcards.paper}"
        " --plan {params.plan:q}"
        " --metrics {params.metrics:q}"
        " --claims {output.claims:q}"
        " --markdown {output.markdown:q}"
        " 2>&1 | tee {log:q}"


rule claims:
    input:
        tables=collect(rules.judge.output.claims, paper=plan.papers),
    output:
        csv=report(
            "results/claims.csv",
            category="claims",
            labels={"figure": "all", "file": "table"},
        ),
        markdown="results/claims.md",
        html=report(
            "results/claims.html",
            caption="../report/claims.rst",
            category="claims",
            labels={"figure": "all", "file": "page"},
        ),
    log:
        "results/logs/claims.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        python=python,
    shell:
        "{params.python} -m workflow.lib gather"
        " --tables {input.tables:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " --html {output.html:q}"
        " 2>&1 | tee {log:q}"
