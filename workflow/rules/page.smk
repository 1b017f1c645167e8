"""The page: everything that lies in the results folder, to be opened in a browser."""

import sys


rule page:
    input:
        figures=paper_figures(*plan.papers),
        tables=rules.claims.input.tables,
    output:
        page="results/index.html",
    log:
        "results/logs/page.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        python=python,
        folder=subpath(output.page, parent=True),
        papers=list(plan.papers),
        code=page_code(),
    shell:
        "{params.python} -m workflow.lib page"
        " --results {params.folder:q}"
        " --papers {params.papers}"
        " --output {output.page:q}"
        " 2>&1 | tee {log:q}"


# A run of one paper or one figure does not ask for the page, but changes what it shows.
onsuccess:
    try:
        from workflow.lib import page

        written = page.refresh(pathlib.Path("results"), list(plan.papers))
        if written:
            print(
                f"Open {written.resolve().as_uri()} to read figures, claims and settings.",
                file=sys.stderr,
            )
    except Exception as error:  # the run itself has succeeded
        print(f"The page could not be written: {error}", file=sys.stderr)
