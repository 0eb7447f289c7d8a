"""The documentation's settings: `sphinx-build -W docs site`."""

import logging

import jupyter_client
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from traitlets import default

import torchdigits

project, author, release = "torchdigits", "the torchdigits authors", torchdigits.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "torchdigits"
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # the lesson is stored without outputs, and runs as the site is made
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120  # seconds for a cell
nb_merge_streams = True
nb_output_stderr = "warn"  # which `-W` turns into an error
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False  # Lightning's refer to Lightning's pages
napoleon_use_ivar = True


class EncryptedKernels(jupyter_client.AsyncKernelManager):
    """Encrypts what it says to a kernel, which else warns, on stderr, of those who listen."""

    @default("transport_encryption")
    def _encrypt(self):
        return "auto"


jupyter_client.AsyncKernelManager = EncryptedKernels  # which nbclient takes
logging.getLogger("traitlets").setLevel(logging.WARNING)  # else nbclient tells of every notebook that it runs


def inline_equation(writer, node):
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_equation(writer, node):
    equation = tex2mathml(node.astext()).replace("<math ", '<math display="block" ', 1)
    writer.body.append(f'<div class="math" style="margin: 1em 0">{equation}</div>')
    raise nodes.SkipNode


def setup(app):
    """Write equations as MathML, which browsers draw themselves: MathJax would be a script from somewhere else."""
    app.add_html_math_renderer("mathml", (inline_equation, None), (block_equation, None))
