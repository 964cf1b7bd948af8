"""Nothing that a student hands in, or that a kernel sends, runs in an instructor's browser."""

import nbformat
import pytest
from nbconvert.exporters import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mechlib.grading.clean import CUT, LONGEST_MARKDOWN, LONGEST_TEXT, MOST_OUTPUTS, MOST_TEXT, clean, clean_remark
from mechlib.grading.graft import EXTRA

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'
PNG = "iVBORw0KGgo="

OUTPUTS = {
    "html": {"output_type": "display_data", "data": {"text/html": EVIL}, "metadata": {}},
    "svg": {"output_type": "display_data", "data": {"image/svg+xml": f"<svg>{EVIL}</svg>"}, "metadata": {}},
    "javascript": {"output_type": "display_data", "data": {"application/javascript": "alert(1)"}, "metadata": {}},
    "latex": {"output_type": "display_data", "data": {"text/latex": EVIL}, "metadata": {}},
    "a picture that is none": {"output_type": "display_data", "data": {"image/png": f'x">{EVIL}'}, "metadata": {}},
    "a picture's size": {
        "output_type": "display_data",
        "data": {"image/png": PNG},
        "metadata": {"image/png": {"width": f'1">{EVIL}'}},
    },
    "text": {"output_type": "execute_result", "data": {"text/plain": EVIL}, "metadata": {}, "execution_count": EVIL},
    "a stream": {"output_type": "stream", "name": f'x">{EVIL}', "text": [EVIL, 1]},
    "an error": {"output_type": "error", "ename": EVIL, "evalue": 7, "traceback": [EVIL, None]},
    "a result without data": {"output_type": "execute_result", "data": None, "execution_count": None},
}


def page(notebook):
    return HTMLExporter(template_name="classic").from_notebook_node(notebook)[0]


def shows_evil(html):
    return "<script>alert" in html or "<img src=x" in html


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS.keys())
def test_outputs(output):
    notebook = new_notebook(cells=[new_code_cell("1")], metadata={"language_info": {"name": EVIL}})
    notebook.cells[0] |= {"execution_count": EVIL, "outputs": [nbformat.from_dict(output)]}
    clean(notebook, new_notebook())
    nbformat.validate(notebook)
    assert not shows_evil(page(notebook))


def test_without_cleaning_it_would_run():
    cell = new_code_cell("1", outputs=[nbformat.from_dict(OUTPUTS["html"])])
    assert shows_evil(page(new_notebook(cells=[cell])))


def test_markdown_of_the_student_loses_its_tags_and_keeps_its_maths():
    text = f"If $a < b$ and `x<y` then **yes**. {EVIL}"
    cells = [
        new_markdown_cell(text, metadata={"question": "toy.why"}),
        new_markdown_cell(text, metadata={"tags": [EXTRA]}),
        new_markdown_cell("<b>ours</b>"),
    ]
    notebook = new_notebook(cells=cells)
    clean(notebook, new_notebook())
    html = page(notebook)
    assert not shows_evil(html)
    assert "<strong>yes</strong>" in html and "a &lt; b" in html and "<b>ours</b>" in html


LINKS = {
    "a link": "[press](javascript:alert(1))",
    "a picture": "![](https://elsewhere.example/seen.png)",
    "a reference": "[press][too]\n\n[too]: javascript:alert(1)",
    "a picture by reference": "![press][too]\n\n[too]: https://elsewhere.example/seen.png",
    "an address": "<javascript:alert(1)>",
}


@pytest.mark.parametrize("text", LINKS.values(), ids=LINKS.keys())
def test_links_and_pictures_of_the_student_are_text(text):
    notebook = new_notebook(cells=[new_markdown_cell(text, metadata={"question": "toy.why"})])
    assert has_address(page(notebook))
    clean(notebook, new_notebook())
    assert not has_address(page(notebook))


def has_address(html):
    """Whether a click runs something, or the page alone asks elsewhere for a picture."""
    return 'href="javascript:alert' in html or 'src="https://elsewhere.example' in html


def test_names_in_remarks_are_one_line_of_text():
    assert clean_remark("the notebook was called my work (final) é_1.ipynb") == (
        "the notebook was called my work (final) é_1.ipynb"
    )
    assert clean_remark("a\n<img src=x>\x1b[2J$x$`[y](z)") == "a??img src=x???2J?x???y?(z)"
    assert len(clean_remark("x" * 1000)) == 300


def test_many_small_outputs_are_cut():
    cells = [new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text="a")] * 800) for _ in range(3)]
    notebook = new_notebook(cells=cells)
    clean(notebook, new_notebook())
    assert [len(cell.outputs) for cell in notebook.cells] == [800, MOST_OUTPUTS - 800, 0]


def test_a_picture_stays():
    output = nbformat.from_dict({"output_type": "display_data", "data": {"image/png": PNG}, "metadata": {}})
    notebook = new_notebook(cells=[new_code_cell("1", outputs=[output])])
    clean(notebook, new_notebook())
    assert PNG in page(notebook)


def test_long_text_is_cut_for_a_page_and_the_pages_space_is_limited():
    cells = [new_code_cell("released " * 10_000)]
    for number in range(40):
        text = "\x1b[" * 500_000
        outputs = [nbformat.v4.new_output("stream", text=text),
                   nbformat.v4.new_output("error", ename="E", evalue=text, traceback=[text, text])]  # fmt: skip
        cells.append(new_code_cell("x = 1\n" * 10_000, outputs=outputs, metadata={"exercise": str(number)}))
    cells.insert(1, new_markdown_cell("\\begin{a}" * 10_000, metadata={"question": "q"}))
    notebook = new_notebook(cells=cells)
    clean(notebook, new_notebook())
    assert notebook.cells[0].source == "released " * 10_000
    assert len(notebook.cells[1].source) == LONGEST_MARKDOWN + len(CUT)
    assert len(notebook.cells[2].source) == LONGEST_TEXT + len(CUT)
    assert len(str(notebook)) < 2.5 * MOST_TEXT  # str() writes an escape character as four


def test_what_an_honest_student_prints_stays():
    notebook = new_notebook(cells=[new_code_cell("print()", metadata={"exercise": "a"})])
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="line\n" * 1000)]
    clean(notebook, new_notebook())
    assert notebook.cells[0].outputs[0].text == "line\n" * 1000 and notebook.cells[0].source == "print()"
