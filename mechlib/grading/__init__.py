"""The instructor's side: release chapters, grade submissions. Everything that touches nbgrader is in here.

Read in this order: source (what an author writes), solved (execute it), release (what students get),
graft (what a submission contributes), run (execute a submission), grade (a whole class), demo (a class to try it on).
"""
