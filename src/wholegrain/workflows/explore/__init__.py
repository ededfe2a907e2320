"""A local web app to ask models about pictures: what each panel computes, and, in files of their own, the page and the server."""
