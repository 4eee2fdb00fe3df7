"""What somebody who means harm can send: to the API, and to hubs' plugins in the place of a hub."""
