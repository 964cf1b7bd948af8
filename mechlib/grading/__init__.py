"""The instructor's side: release chapters, grade submissions. Everything that touches nbgrader is in here.

Read in this order: source (what an author writes), solved (executes it), release (what students get),
graft (what a submission contributes), run (executes a submission), grade (a class), demo (a class to try).
"""
