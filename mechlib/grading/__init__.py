"""The instructor's side: release chapters, grade submissions. Everything that touches nbgrader is in here.

Releasing: source (what an author writes), solved (executes it), release (what students get), leaks.
Grading, from the outside in: grade (the driver), store (what survives it), book (nbgrader), forkserver, worker (one
submission), graft (what of it counts), run (executes it), manager and kernel (Jupyter's two ends), sandbox,
namespaces, limits and watch (what it may use), judging (the verdicts), clean and look (what others see of it), report,
class_report, live (the table); demo (a class to try).
"""
