// The torch wheel leaves gloo's headers out. Its own headers only need this name to exist.
#pragma once
